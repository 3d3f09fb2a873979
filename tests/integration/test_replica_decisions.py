"""Code that decides what to write reads from the primary, so that it sees the writes of every process.

The tests pause the replay of the log while another process writes. They permit a lag of 60 s, so that the
replica stays in use.
"""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from core import EnhancedDatabaseService, open_service
from core.migration import Migrator
from core.price_import.loading import load_prices, move_to_today
from core.price_import.options import parse_options
from core.price_import.reading import PriceReading, read_prices
from core.simulation.catch_up import play_missed_sessions
from core.simulation.replay import plan_seed
from core.simulation.simulator import Simulator
from tests.market_days import import_days, write_days
from tests.replicas import ReplicaPair, count_reads, run_pair, wait_until_used

FIRST, LAST = "2013-02-15", "2013-03-01"
TODAY = datetime.now(UTC).date()
PLAYERS = 2


@pytest.fixture(scope="module")
def pair(
    server_directory: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ReplicaPair]:
    """Yield a primary with prices and simulated players, and its replica."""
    with run_pair(server_directory) as pair:
        Migrator(pair.settings(None)).up()
        with open_service(pair.settings(None)) as service:
            import_days(service, tmp_path_factory.mktemp("prices"), FIRST, LAST)
            plan_seed(service, players=PLAYERS).run()
        pair.wait_until_replayed()
        yield pair


@pytest.fixture
def service(pair: ReplicaPair, monkeypatch: pytest.MonkeyPatch) -> Iterator[EnhancedDatabaseService]:
    """Yield a service that reads from the replica up to a lag of 60 s."""
    monkeypatch.setattr("core.database.replication_lag.MAX_LAG_SECONDS", 60.0)
    with open_service(pair.settings(None)) as service:
        wait_until_used(service)
        # the first read connects to the primary; later reads can use the replica
        service.search_users("nobody")
        yield service


@pytest.fixture
def reading(tmp_path: Path) -> PriceReading:
    """Return the prices of the days that are imported already, read from a file."""
    return read_prices(write_days(tmp_path / "prices.csv", FIRST, LAST), parse_options())


def run_step(service: EnhancedDatabaseService) -> None:
    """Run one step of the market with a new simulator."""
    Simulator(service, interval_seconds=1.0, stop=threading.Event()).step()


# Calls that read before they write.
DECISIONS: dict[str, Callable[[EnhancedDatabaseService, PriceReading], object]] = {
    "import": load_prices,
    "dates of the import": lambda service, reading: move_to_today(service, reading, TODAY),
    "plan of a seed": lambda service, _: plan_seed(service, players=PLAYERS),
    "missed sessions": lambda service, _: play_missed_sessions(service, TODAY),
    "step of a simulator": lambda service, _: run_step(service),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_decisions_read_the_primary(
    service: EnhancedDatabaseService, pair: ReplicaPair, reading: PriceReading, name: str
) -> None:
    """Calls that read before they write do not read from the replica."""
    with open_service(pair.settings(None)) as other, pair.paused():
        other.create_user(username=f"u{uuid4().hex[:12]}")
        service.search_users("nobody")
        before = count_reads_on_replica(service)
        assert before > 0, "the replica is not used at all"
        DECISIONS[name](service, reading)
        assert count_reads_on_replica(service) == before


def count_reads_on_replica(service: EnhancedDatabaseService) -> int:
    """Return how many reads ran on the replica."""
    return sum(number for (where, _), number in count_reads(service).items() if where == "replica")


def test_the_survey_of_a_seed_reads_the_primary(service: EnhancedDatabaseService, pair: ReplicaPair) -> None:
    """The survey before a seed counts a player whom the replica does not have yet."""
    plan = plan_seed(service, players=PLAYERS)
    with open_service(pair.settings(None)) as other, pair.paused():
        name = f"u{uuid4().hex[:12]}"
        before = plan.survey().real_players
        other.create_user(username=name)
        assert plan.survey().real_players == before + 1
