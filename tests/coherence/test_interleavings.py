"""Every interleaving that breaks a cache, and this one holds."""

from collections.abc import Iterator

import pytest

from core import Settings
from core.testing import ValkeyServer
from tests.coherence.fleet import Fleet, run_fleet
from tests.coherence.history import Read
from tests.coherence.scenarios import SCENARIOS

PROCESSES = 3


class Harbour:
    """A fleet that is used again until a scenario kills one of its processes."""

    def __init__(self, settings: Settings, valkey: ValkeyServer) -> None:
        self._settings = settings
        self._valkey = valkey
        self._fleets: list[Iterator[Fleet]] = []
        self._fleet: Fleet | None = None

    def get(self) -> Fleet:
        """Return a fleet with every process alive."""
        if self._fleet is None or not all(member.process.is_alive() for member in self._fleet.members):
            self.close()
            self._fleets.append(self._run())
            self._fleet = next(self._fleets[-1])
        return self._fleet

    def _run(self) -> Iterator[Fleet]:
        with run_fleet(self._settings, self._valkey, [None] * PROCESSES) as fleet:
            yield fleet

    def close(self) -> None:
        """End every process."""
        while self._fleets:
            next(self._fleets.pop(), None)


@pytest.fixture(scope="module")
def harbour(fleet_settings: Settings, fleet_valkey: ValkeyServer) -> Iterator[Harbour]:
    """Where fleets come from."""
    harbour = Harbour(fleet_settings, fleet_valkey)
    yield harbour
    harbour.close()


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_an_interleaving_leaves_nothing_wrong(harbour: Harbour, name: str) -> None:
    """Whatever the order of the steps, no read is older than what was acknowledged before it."""
    fleet = harbour.get()
    SCENARIOS[name](fleet)
    history = fleet.take_history()
    assert any(isinstance(event, Read) for event in history.events)
    assert history.find_violations() == []


def test_a_cold_key_is_loaded_once(harbour: Harbour) -> None:
    """Twelve threads in three processes want the same cold keys at one moment."""
    fleet = harbour.get()
    game = fleet.start_game()
    for what, argument in (
        ("user", 0),
        ("board", 50),
        ("portfolio", 1),
        ("market", (0, 1)),
        ("market", None),
    ):
        for member in fleet.members:
            member.call("take_loads")
        fleet.run([[[("read", game, what, argument)]] * 4] * PROCESSES)
        loads = [key for member in fleet.members for key in member.call("take_loads")]
        assert len(loads) == len(set(loads)), f"{what}: {loads}"
    assert fleet.take_history().find_violations() == []
