"""`python -m tests.bench.size`: measure calls on a million leaderboard entries and ten million ticks.

Owns the rows, the calls, and for each call a simple SQL statement with the same result. A call and its
statement take turns. There is no pass or fail.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import click
import psycopg2
from rich.console import Console
from rich.table import Table

from core import EnhancedDatabaseService, Settings, open_service
from core.migration import Migrator
from tests.bench.servers import run_servers

CATEGORY = "daily_returns"
DAY = date(2026, 3, 2)
MONTHS_OF_TICKS = 18
PARTITIONS = "0004_partition_ticks"

# The ids of players ascend, like UUIDs of version 7; the scores are random.
FILL_LEADERBOARD = """
INSERT INTO users (id, username)
SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'player' || n
FROM generate_series(1, %(entries)s) AS n;
INSERT INTO leaderboard_entries (id, user_id, session_date, category, score)
SELECT id, id, %(day)s, %(category)s,
       (sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()) * 2)::numeric(15, 2)
FROM users ORDER BY id;
"""
FIRST_TICK = "INSERT INTO ticks (symbol, timestamp, price) VALUES ('S0', %(first)s, 1)"
FILL_TICKS = """
INSERT INTO ticks (symbol, timestamp, price, volume, bid, ask)
SELECT 'S' || n %% %(symbols)s,
       %(now)s - (1 - n / %(ticks)s::numeric)::float * (%(now)s - %(first)s), 100 + n %% 50, n, 99, 151
FROM generate_series(1, %(ticks)s) AS n
"""
PLAIN_TOP = """
    SELECT user_id, score, rank() OVER (ORDER BY score DESC) FROM leaderboard_entries
    WHERE session_date = %(day)s AND category = %(category)s
    ORDER BY score DESC, created_at, id LIMIT 50 OFFSET %(offset)s"""
PLAIN_RANK = """
    SELECT 1 + count(*) FROM leaderboard_entries
    WHERE session_date = %(day)s AND category = %(category)s AND score > (
        SELECT score FROM leaderboard_entries
        WHERE user_id = %(player)s AND session_date = %(day)s AND category = %(category)s)"""
PLAIN_AROUND = """
    WITH ranked AS (
        SELECT user_id, score, rank() OVER (ORDER BY score DESC) AS rank,
               row_number() OVER (ORDER BY score DESC, created_at, id) AS place
        FROM leaderboard_entries WHERE session_date = %(day)s AND category = %(category)s
    ), mine AS (SELECT place FROM ranked WHERE user_id = %(player)s)
    SELECT ranked.* FROM ranked, mine WHERE ranked.place BETWEEN mine.place - 5 AND mine.place + 5"""
PLAIN_LATEST = """
    SELECT t.* FROM unnest(%(symbols)s) AS s (symbol) CROSS JOIN LATERAL (
        SELECT * FROM ticks WHERE symbol = s.symbol ORDER BY timestamp DESC LIMIT 1) AS t"""
PLAIN_CANDLES = """
    SELECT date_trunc('day', timestamp, 'UTC'), min(price), max(price), sum(volume), count(*) FROM ticks
    WHERE symbol = 'S1' AND timestamp >= %(start)s AND timestamp < %(now)s GROUP BY 1 ORDER BY 1"""
PLAYER_AT_OFFSET = """
    SELECT user_id FROM leaderboard_entries WHERE session_date = %(day)s AND category = %(category)s
    ORDER BY score DESC, created_at, id LIMIT 1 OFFSET %(offset)s"""


class Size(NamedTuple):
    """The numbers of leaderboard entries, ticks and symbols."""

    entries: int
    ticks: int
    symbols: int


SIZES = {
    "small": Size(20_000, 100_000, 100),
    "medium": Size(300_000, 2_000_000, 500),
    "full": Size(1_000_000, 10_000_000, 500),
}


class Call(NamedTuple):
    """A call of the service, and the simple SQL statement with the same result."""

    name: str
    ours: Callable[[], object]
    plain: str
    parameters: dict[str, Any]


@click.command()
@click.option("--scale", type=click.Choice(list(SIZES)), default="full", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True)
def main(scale: str, rounds: int) -> None:
    """Start servers and measure calls on large tables."""
    size, console = SIZES[scale], Console(width=100)
    with run_servers() as settings:
        url = settings.database_url.get_secret_value()
        with console.status("filling the tables"):
            parameters = fill(settings, size)
        without_cache = Settings(database_url=settings.database_url, enable_redis_cache=False)
        with open_service(without_cache) as service:
            with console.status("taking turns"):
                rows = list(measure(url, list_calls(service, parameters), rounds=rounds))
            closing = measure_closing(service)
    console.print(make_table(rows))
    console.print(f"close_session: {closing[0]:.1f} s, repeated {closing[1]:.1f} s")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    console.print(f"{size}; medians of {rounds} rounds, on {os.cpu_count()} cores at load {load}")


def fill(settings: Settings, size: Size) -> dict[str, Any]:
    """Write the rows, with one partition of ticks per month; return the parameters of the statements."""
    now = datetime.now(UTC)
    parameters: dict[str, Any] = {
        **size._asdict(),
        "now": now,
        "first": now - timedelta(days=30 * MONTHS_OF_TICKS),
        "start": now - timedelta(days=30),
        "day": DAY,
        "category": CATEGORY,
        "offset": size.entries // 2,
    }
    # the migration creates a past partition only if ticks exist, so an old tick is inserted before it runs
    migrator, url = Migrator(settings), settings.database_url.get_secret_value()
    migrator.down(PARTITIONS)
    run(url, FIRST_TICK, parameters)
    migrator.up()
    for statement in (FILL_LEADERBOARD, FILL_TICKS):
        run(url, statement, parameters)
    run(url, "VACUUM ANALYZE", None)
    run(url, "CHECKPOINT", None)
    parameters["symbols"] = [f"S{n}" for n in range(size.symbols)]
    [(player,)] = run(url, PLAYER_AT_OFFSET, parameters)
    return {**parameters, "player": player}


def list_calls(service: EnhancedDatabaseService, parameters: dict[str, Any]) -> list[Call]:
    """Return the measured calls, each with its simple SQL statement."""
    middle, player, now = parameters["offset"], UUID(str(parameters["player"])), parameters["now"]
    symbols = parameters["symbols"][: len(parameters["symbols"]) * 2 // 5]

    def page(offset: int) -> Callable[[], object]:
        return lambda: service.get_leaderboard(CATEGORY, DAY, 50, offset=offset)

    def around() -> object:
        return service.get_leaderboard_around(player, CATEGORY, DAY, radius=5)

    def candles() -> object:
        return service.get_price_history("S1", parameters["start"], now, "1d")

    calls: list[tuple[str, Callable[[], object], str, dict[str, Any]]] = [
        ("top 50", page(0), PLAIN_TOP, {"offset": 0}),
        (f"page at {middle:,}", page(middle), PLAIN_TOP, {}),
        (f"rank {middle:,}", lambda: service.get_user_rank(player, CATEGORY, DAY), PLAIN_RANK, {}),
        ("ten around", around, PLAIN_AROUND, {}),
        (
            f"latest of {len(symbols)}",
            lambda: service.get_latest_market_data(symbols),
            PLAIN_LATEST,
            {"symbols": symbols},
        ),
        ("latest of all", service.get_latest_market_data, PLAIN_LATEST, {}),
        ("candles of a month", candles, PLAIN_CANDLES, {}),
    ]
    return [Call(name, ours, plain, {**parameters, **more}) for name, ours, plain, more in calls]


def measure(url: str, calls: list[Call], *, rounds: int) -> Iterator[tuple[str, float, float]]:
    """Yield for each call its name, its median milliseconds and those of its simple statement."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            for call in calls:
                ours, plain = [], []
                for _ in range(rounds):
                    ours.append(clock(call.ours))
                    plain.append(clock(partial(cursor.execute, call.plain, call.parameters)))
                yield call.name, statistics.median(ours), statistics.median(plain)
    finally:
        connection.close()


def measure_closing(service: EnhancedDatabaseService) -> tuple[float, float]:
    """Return the seconds of `close_session`, which stores every rank, and of a repeated call."""
    first, again = (clock(partial(service.close_session, DAY)) / 1000 for _ in range(2))
    return first, again


def clock(call: Callable[[], object]) -> float:
    """Return the milliseconds of one call."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def run(url: str, statement: str, parameters: dict[str, Any] | None) -> list[tuple[Any, ...]]:
    """Run a statement on a new connection and return its rows."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def make_table(rows: list[tuple[str, float, float]]) -> Table:
    """Return a table of the times of each call and its statement, with their ratio."""
    table = Table("", "service ms", "plain ms", "ratio")
    for name, ours, plain in rows:
        table.add_row(name, f"{ours:.2f}", f"{plain:.2f}", f"{ours / plain:.3f}")
    return table


if __name__ == "__main__":
    main()
