"""Interleavings of reads and writes that could leave a stale value in a cache; the service serves none."""

from collections.abc import Iterator

import pytest

from core import Settings
from core.testing import ValkeyServer
from tests.coherence.fleet import Fleet, run_fleet
from tests.coherence.history import Read
from tests.coherence.scenarios import SCENARIOS

PROCESSES = 3


class FleetProvider:
    """Runs one fleet of processes for all scenarios, and a new one after a scenario killed a process."""

    def __init__(self, settings: Settings, valkey: ValkeyServer) -> None:
        self._settings = settings
        self._valkey = valkey
        self._fleets: list[Iterator[Fleet]] = []
        self._fleet: Fleet | None = None

    def get(self) -> Fleet:
        """Return a fleet whose processes all run."""
        if self._fleet is None or not all(member.process.is_alive() for member in self._fleet.members):
            self.close()
            self._fleets.append(self._run())
            self._fleet = next(self._fleets[-1])
        return self._fleet

    def _run(self) -> Iterator[Fleet]:
        with run_fleet(self._settings, self._valkey, [None] * PROCESSES) as fleet:
            yield fleet

    def close(self) -> None:
        """End the processes of every fleet."""
        while self._fleets:
            next(self._fleets.pop(), None)


@pytest.fixture(scope="module")
def fleets(fleet_settings: Settings, fleet_valkey: ValkeyServer) -> Iterator[FleetProvider]:
    """Yield the provider of fleets, and end their processes after the last test."""
    fleets = FleetProvider(fleet_settings, fleet_valkey)
    yield fleets
    fleets.close()


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_no_interleaving_causes_a_stale_read(fleets: FleetProvider, name: str) -> None:
    """No read of the scenario returns a version older than a write that was acknowledged before it."""
    fleet = fleets.get()
    SCENARIOS[name](fleet)
    history = fleet.take_history()
    assert any(isinstance(event, Read) for event in history.events)
    assert history.find_violations() == []


def test_a_cold_key_is_loaded_once(fleets: FleetProvider) -> None:
    """When twelve threads in three processes read the same uncached keys at once, each key is loaded once."""
    fleet = fleets.get()
    game = fleet.start_game()
    for what, argument in (
        ("user", 0),
        ("leaderboard", 50),
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
