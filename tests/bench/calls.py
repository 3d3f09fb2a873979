"""Single calls: reads with and without the cache, and a write, against the same statement alone.

The bare way sends the service's own statement, or one GET of the very value that
the cache holds, on an open connection, and takes the driver's rows or bytes as
they are: no typed values, no pool, no metrics, no invalidation.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import redis
from psycopg2.extensions import connection

from core import EnhancedDatabaseService
from core.cache.keys import leaderboard_key, user_key
from core.queries import leaderboards, market, users
from core.records import User
from tests.bench.timing import Comparison, compare

CATEGORY = "daily_returns"
LIMIT = 50
YEAR = timedelta(days=365)
DAY = timedelta(days=1)
UPSERT = """
    INSERT INTO leaderboard_entries (user_id, session_date, category, score) VALUES (%s, %s, %s, %s)
    ON CONFLICT (user_id, session_date, category) DO UPDATE SET score = EXCLUDED.score"""


class Bench(NamedTuple):
    """Two services on one database, with and without a cache, and the bare drivers."""

    cached: EnhancedDatabaseService
    uncached: EnhancedDatabaseService
    database: connection
    cache: redis.Redis
    day: date
    user: User
    calls: int


def measure_calls(bench: Bench) -> Iterator[Comparison]:
    """Yield one comparison after the other."""
    yield from _measure_cached(bench)
    yield from _measure_uncached(bench)
    yield _measure_write(bench)


def _measure_cached(bench: Bench) -> Iterator[Comparison]:
    board_key, profile_key = leaderboard_key(CATEGORY, bench.day, LIMIT), user_key(bench.user.id)
    yield compare(
        f"leaderboard, top {LIMIT}, cached",
        lambda: bench.cached.get_leaderboard(CATEGORY, bench.day, LIMIT),
        lambda: bench.cache.get(board_key),
        calls=bench.calls,
    )
    yield compare(
        "user by id, cached",
        lambda: bench.cached.get_user_by_id(bench.user.id),
        lambda: bench.cache.get(profile_key),
        calls=bench.calls,
    )


def _measure_uncached(bench: Bench) -> Iterator[Comparison]:
    service, board = bench.uncached, {"category": CATEGORY, "day": bench.day, "limit": LIMIT, "offset": 0}
    end = datetime.combine(bench.day, datetime.min.time(), UTC) + DAY
    candles = {"symbol": "AAPL", "start": end - YEAR, "end": end, "bucket": DAY}
    yield compare(
        f"leaderboard, top {LIMIT}",
        lambda: service.get_leaderboard(CATEGORY, bench.day, LIMIT),
        _select(bench.database, leaderboards.PAGE, board),
        calls=bench.calls,
    )
    yield compare(
        "user by id",
        lambda: service.get_user_by_id(bench.user.id),
        _select(bench.database, users.FIND_BY_ID, (str(bench.user.id),)),
        calls=bench.calls,
    )
    yield compare(
        "latest price of every symbol",
        service.get_latest_market_data,
        _select(bench.database, market.LATEST_ALL, None),
        calls=bench.calls,
    )
    yield compare(
        "daily candles of a year",
        lambda: service.get_price_history("AAPL", end - YEAR, end, DAY),
        _select(bench.database, market.CANDLES, candles),
        calls=bench.calls,
    )


def _measure_write(bench: Bench) -> Comparison:
    score = Decimal("1.50")
    values = (str(bench.user.id), bench.day, CATEGORY, score)
    return compare(
        "score written",
        lambda: bench.cached.update_leaderboard_entry(bench.user.id, CATEGORY, score, bench.day),
        _execute(bench.database, UPSERT, values),
        calls=bench.calls,
    )


def _select(database: connection, statement: str, parameters: Any) -> Callable[[], object]:
    def run() -> object:
        with database.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall()

    return run


def _execute(database: connection, statement: str, parameters: Any) -> Callable[[], object]:
    def run() -> object:
        with database.cursor() as cursor:
            cursor.execute(statement, parameters)
        return None

    return run
