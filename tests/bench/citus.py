"""`python -m tests.bench.citus`: compare calls on Citus with one and two workers, and without Citus.

Owns the calls that are compared. All three databases have the same rows and are on the servers of CITUS_URL,
so that the version of PostgreSQL is the same. The plain database is on the coordinator, without the Citus
extension. The databases take turns, and each ratio compares two times of the same round.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from uuid import UUID, uuid4

import click
from frozendict import frozendict
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from core import EnhancedDatabaseService, Settings, open_service
from core.migration import Migrator
from core.records import LeaderboardUpdate, PortfolioUpdate, User
from tests.bench.data import CATEGORY
from tests.conftest import connected
from tests.matrix.citus_cluster import created_citus_database, find_url

PLAYERS = 2_000
ROUNDS = 20
CALLS = 20
BATCH = 1_000
NOW = datetime.now(UTC)
TODAY = NOW.date()
Call = Callable[[EnhancedDatabaseService, list[UUID], int], object]

MEASURED_CALLS: dict[str, Call] = {
    "a profile": lambda s, ids, n: s.get_user_by_id(ids[n % PLAYERS]),
    "an activity": lambda s, ids, n: s.touch_last_active(ids[n % PLAYERS]),
    "a portfolio": lambda s, ids, n: s.get_portfolio(ids[n % PLAYERS], TODAY),
    "a portfolio's values": lambda s, ids, n: s.update_portfolio_value(
        ids[n % PLAYERS], TODAY, total_value=Decimal(n), day_change=Decimal(1)
    ),
    "top 50": lambda s, _, __: s.get_leaderboard(CATEGORY, TODAY, 50),
    "a page of 50 in the middle": lambda s, _, __: s.get_leaderboard(
        CATEGORY, TODAY, 50, offset=PLAYERS // 2
    ),
    "a rank": lambda s, ids, n: s.get_user_rank(ids[n % PLAYERS], CATEGORY, TODAY),
    "a new score with its rank": lambda s, ids, n: s.update_leaderboard_entry(
        ids[n % PLAYERS], CATEGORY, Decimal(n % 997), TODAY
    ),
    "the latest price": lambda s, _, __: s.get_latest_market_data(["AAPL"]),
    "a tick": lambda s, _, n: s.insert_market_tick("AAPL", Decimal(n + 1)),
    "a user by username, every shard": lambda s, _, n: s.get_user_by_username(f"player{n % PLAYERS}"),
    f"{BATCH} portfolios, every shard": lambda s, ids, n: s.batch_update_portfolios(
        [PortfolioUpdate(each, TODAY, Decimal(n), Decimal(1)) for each in ids[:BATCH]]
    ),
    f"{BATCH} scores": lambda s, ids, n: s.batch_update_leaderboard(
        CATEGORY, [LeaderboardUpdate(each, Decimal(n % 991)) for each in ids[:BATCH]], TODAY
    ),
    "a new user, every node": lambda s, _, __: s.create_user(username=uuid4().hex),
}


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, show_default=True)
def main(rounds: int) -> None:
    """Measure each call on the plain database and on both distributed databases."""
    url = os.environ.get("CITUS_URL")
    if not url:
        raise click.UsageError("set CITUS_URL to the coordinator of a Citus cluster with two workers")
    Settings.model_config["env_file"] = None
    with ExitStack() as stack:
        settings = {
            "plain": stack.enter_context(created_plain_database(url)),
            "1 worker": stack.enter_context(created_citus_database(url, workers=1)),
            "2 workers": stack.enter_context(created_citus_database(url, workers=2)),
        }
        services = {}
        for name, each in settings.items():
            Migrator(each).up()
            services[name] = stack.enter_context(open_service(each))
        ids = {name: prepare(service) for name, service in services.items()}
        table = Table("call", "plain", *(f"{name}, ratio" for name in list(services)[1:]), box=None)
        numbers = count()
        for name, call in MEASURED_CALLS.items():
            calls = max(1, CALLS // 10) if str(BATCH) in name else CALLS
            times = [
                {
                    place: measure(service, call, ids[place], numbers, calls)
                    for place, service in services.items()
                }
                for _ in range(rounds)
            ]
            ratios = (
                statistics.median(each[place] / each["plain"] for each in times)
                for place in list(services)[1:]
            )
            plain = statistics.median(each["plain"] for each in times)
            table.add_row(name, f"{plain * 1e3:.2f} ms", *(f"{ratio:.1f}" for ratio in ratios))
    console = Console(width=100)
    console.print(table)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    console.print(f"medians of {rounds} rounds, on {os.cpu_count()} cores at load {load}")


@contextmanager
def created_plain_database(url: str) -> Iterator[Settings]:
    """Create a database without Citus on the coordinator's server; yield its settings."""
    name = f"plain_{uuid4().hex}"
    with connected(url) as execute:
        execute(f"CREATE DATABASE {name} ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE template0")
        try:
            yield Settings(database_url=SecretStr(find_url(url, database=name)), enable_redis_cache=False)
        finally:
            execute(f"DROP DATABASE {name} WITH (FORCE)")


def prepare(service: EnhancedDatabaseService) -> list[UUID]:
    """Create players with portfolios, scores and prices; return their ids."""
    users = (
        User(UUID(int=number), f"player{number}", None, None, None, frozendict(), NOW, NOW)
        for number in range(PLAYERS)
    )
    ids = list(service.load_users(users).values())
    for each in ids:
        service.get_current_portfolio(each, TODAY)
    scores = [LeaderboardUpdate(each, Decimal(number % 997)) for number, each in enumerate(ids)]
    service.batch_update_leaderboard(CATEGORY, scores, TODAY)
    for minutes in range(500):
        service.insert_market_tick("AAPL", Decimal(100), timestamp=NOW - timedelta(minutes=minutes))
    return ids


def measure(
    service: EnhancedDatabaseService, call: Call, ids: list[UUID], numbers: Iterator[int], calls: int
) -> float:
    """Return the mean seconds of one call."""
    start = time.perf_counter()
    for _ in range(calls):
        call(service, ids, next(numbers))
    return (time.perf_counter() - start) / calls


if __name__ == "__main__":
    main()
