"""`python -m tests.bench.isolation`: compare calls of a view (`as_user`) with the same calls of the service.

Owns the compared reads: without the cache, from the shared cache and from the near cache. The two calls take
turns on one connection, and each ratio compares two times of the same round.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table

from core import EnhancedDatabaseService, open_service
from core.database.roles import APP
from tests.bench.growth import wait_for_near
from tests.bench.servers import run_servers
from tests.roles import give_to_roles, settings_as

ROUNDS = 60
MAX_RATIO = 1.15
PLAYERS = 2_000
# Number of calls per turn, so that a turn takes at most 0.1 s.
CALLS = {"without cache": 100, "shared cache": 300, "near cache": 5_000}
SETTINGS: dict[str, dict[str, object]] = {
    "without cache": {"enable_redis_cache": False},
    "shared cache": {"near_cache_size": 0},
    "near cache": {},
}


class Pair(NamedTuple):
    """A call of the service, and the same call of a view of one player."""

    of_service: Callable[[], object]
    of_view: Callable[[], object]


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, show_default=True)
def main(rounds: int) -> None:
    """Measure each read through the service and through a view."""
    table = Table("read", "from", "service", "view", "ratio", f"at most {MAX_RATIO}?", box=None)
    with open_services() as services:
        for source, service in services.items():
            for name, pair in list_pairs(service).items():
                figures = measure(pair, rounds, CALLS[source])
                ratio = statistics.median(view / plain for plain, view in figures)
                times = [f"{statistics.median(column) * 1e6:.2f} us" for column in zip(*figures, strict=True)]
                table.add_row(name, source, *times, f"{ratio:.3f}", "yes" if ratio <= MAX_RATIO else "no")
    console = Console(width=100)
    console.print(table)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    console.print(f"medians of {rounds} rounds, on {os.cpu_count()} cores at load {load}")


@contextmanager
def open_services() -> Iterator[dict[str, EnhancedDatabaseService]]:
    """Yield one service per cache tier, on a database with roles and 2,000 players."""
    with run_servers() as settings, ExitStack() as stack:
        url = settings.database_url.get_secret_value()
        give_to_roles(url)
        cache = {"redis_url": settings.redis_url, "redis_password": settings.redis_password}
        services = {
            source: stack.enter_context(open_service(settings_as(APP, url, **cache, **changes)))
            for source, changes in SETTINGS.items()
        }
        first = services["without cache"]
        with first.transaction():
            for number in range(PLAYERS):
                first.get_current_portfolio(first.create_user(username=f"player{number}").id)
        with first._database.session("analyze") as database:
            database.execute_sql("SELECT leaderboard_analyze()")
        wait_for_near(services["near cache"])
        yield services


def list_pairs(service: EnhancedDatabaseService) -> dict[str, Pair]:
    """Return the reads of one player that are compared."""
    user = service.get_user_by_username("player7")
    view, today = service.as_user(user.id), datetime.now(UTC).date()
    return {
        "profile": Pair(lambda: service.get_user_by_id(user.id), view.get_profile),
        "portfolio": Pair(lambda: service.find_portfolio(user.id, today), lambda: view.find_portfolio(today)),
        "active quests": Pair(lambda: service.get_user_active_quests(user.id), view.get_user_active_quests),
    }


def measure(pair: Pair, rounds: int, calls: int) -> list[tuple[float, float]]:
    """Return the seconds per call of both calls for each round; their order alternates."""
    figures = []
    for call in pair:
        clock(call, calls // 10)
    for number in range(rounds):
        if number % 2:
            view, plain = clock(pair.of_view, calls), clock(pair.of_service, calls)
        else:
            plain, view = clock(pair.of_service, calls), clock(pair.of_view, calls)
        figures.append((plain, view))
    return figures


def clock(call: Callable[[], object], calls: int) -> float:
    """Return the mean seconds of one call."""
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls


if __name__ == "__main__":
    main()
