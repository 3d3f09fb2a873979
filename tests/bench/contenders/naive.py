"""peewee and redis-py, used as their tutorials show.

The pool connects automatically, each symbol has its own query, each portfolio has its own UPDATE, values are
JSON, and the command KEYS finds the cache keys to delete.
"""

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

import peewee
from playhouse.pool import PooledPostgresqlDatabase

from core import Settings
from core.models import LeaderboardEntry, Portfolio, User
from core.models import Tick as TickModel
from core.records import PortfolioUpdate, Tick
from tests.bench.contenders.connections import open_redis
from tests.bench.contenders.contender import Contender
from tests.bench.data import CATEGORY, DAY, LIMIT

POOL_SECONDS = 60


class Naive(Contender):
    """peewee's models and its pool that connects automatically, with cache-aside."""

    name: ClassVar[str] = "naive peewee"

    def __init__(self, settings: Settings, *, number: int) -> None:
        super().__init__()
        self._redis = open_redis(settings, number=number)
        self._database = PooledPostgresqlDatabase(
            settings.database_url.get_secret_value(),
            max_connections=settings.database_connection_limit,
            timeout=POOL_SECONDS,
        )

    def get_leaderboard(self, limit: int = LIMIT) -> Sequence[Any]:
        """Return the value of one cache key, or load it."""
        rows: Sequence[Any] = self._read(f"leaderboard:{limit}", 120, partial(self._load_entries, limit))
        return rows

    def _load_entries(self, limit: int) -> list[dict[str, Any]]:
        self.count_load()
        entries = (
            LeaderboardEntry.select(LeaderboardEntry, User)
            .join(User)
            .where(LeaderboardEntry.session_date == DAY, LeaderboardEntry.category == CATEGORY)
            .order_by(LeaderboardEntry.score.desc(), LeaderboardEntry.created_at, LeaderboardEntry.id)
            .limit(limit)
        )
        rows: list[dict[str, Any]] = []
        for position, entry in enumerate(entries.execute(self._database), 1):
            is_equal = rows and rows[-1]["score"] == entry.score
            rows.append(
                {
                    "id": entry.id,
                    "user_id": entry.user_id,
                    "username": entry.user.username,
                    "score": entry.score,
                    "rank": rows[-1]["rank"] if is_equal else position,
                    "metadata": entry.metadata,
                    "created_at": entry.created_at,
                }
            )
        return rows

    def get_portfolio(self, user_id: UUID) -> Any:
        """Return the value of one cache key, or load it."""

        def load() -> Any:
            query = Portfolio.select().where(Portfolio.user == user_id, Portfolio.session_date == DAY)
            return query.dicts().execute(self._database)[0]

        return self._read(f"portfolio:{user_id}", 60, load)

    def get_market(self, symbols: Sequence[str]) -> Sequence[Any]:
        """Return the values of the cache keys, or load them, one after the other."""
        return [
            self._read(f"tick:{symbol}", 30, partial(self._load_tick, symbol)) for symbol in sorted(symbols)
        ]

    def _load_tick(self, symbol: str) -> Any:
        query = TickModel.select().where(TickModel.symbol == symbol)
        return query.order_by(TickModel.timestamp.desc()).limit(1).dicts().execute(self._database)[0]

    def _read(self, key: str, seconds: int, load: Callable[[], Any]) -> Any:
        stored: Any = self._redis.get(key)
        if stored is not None:
            return json.loads(stored)
        try:
            value = load()
        finally:
            self._database.close()
        self._redis.set(key, json.dumps(value, default=str), ex=seconds)
        return value

    def update_score(self, user_id: UUID, score: Decimal, category: str) -> Any:
        """Write the row, then delete the cache keys that KEYS finds."""
        row = {"user": user_id, "session_date": DAY, "category": category, "score": score}
        keys = [LeaderboardEntry.user, LeaderboardEntry.session_date, LeaderboardEntry.category]
        query = LeaderboardEntry.insert(row).on_conflict(
            conflict_target=keys, preserve=[LeaderboardEntry.score]
        )
        query.execute(self._database)
        self._database.close()
        self._delete_keys("leaderboard:*")

    def update_portfolio(self, user_id: UUID, total_value: Decimal) -> None:
        """Write the row, then delete the cache keys that KEYS finds."""
        self._update(user_id, {Portfolio.total_value: total_value})
        self._database.close()
        self._delete_keys(f"portfolio:{user_id}*")

    def _update(self, user_id: UUID, values: dict[Any, Any]) -> int:
        query = Portfolio.update(values).where(Portfolio.user == user_id, Portfolio.session_date == DAY)
        return int(query.execute(self._database))

    def update_portfolios(self, updates: Sequence[PortfolioUpdate]) -> int:
        """Update the rows one by one in one transaction, then delete the cache keys that KEYS finds."""
        with self._database.atomic():
            count = sum(
                self._update(
                    UUID(str(update.user_id)),
                    {
                        Portfolio.total_value: update.total_value,
                        Portfolio.day_change: update.day_change,
                        Portfolio.day_change_percent: round(
                            update.day_change / (update.total_value - update.day_change) * 100, 2
                        ),
                    },
                )
                for update in updates
            )
        self._database.close()
        self._delete_keys("portfolio:*")
        return count

    def insert_tick(self, tick: Tick) -> None:
        """Write the row, then delete the cache keys that KEYS finds."""
        self._insert([tick])
        self._database.close()
        self._delete_keys(f"tick:{tick.symbol}")

    def insert_ticks(self, ticks: Sequence[Tick]) -> int:
        """Insert a hundred rows per statement, then delete the cache keys that KEYS finds."""
        with self._database.atomic():
            for batch in peewee.chunked(ticks, 100):
                self._insert(batch)
        self._database.close()
        self._delete_keys("tick:*")
        return len(ticks)

    def _insert(self, ticks: Sequence[Tick]) -> None:
        names = ("symbol", "timestamp", "price", "volume", "bid", "ask")
        rows = [{name: getattr(tick, name) for name in names} for tick in ticks]
        keys = [TickModel.symbol, TickModel.timestamp]
        query = TickModel.insert_many(rows).on_conflict(
            conflict_target=keys,
            preserve=[TickModel.price, TickModel.volume, TickModel.bid, TickModel.ask],
        )
        query.execute(self._database)

    def _delete_keys(self, pattern: str) -> None:
        keys: Any = self._redis.keys(pattern)
        if keys:
            self._redis.delete(*keys)

    def close(self) -> None:
        """Close every connection."""
        self._database.close_all()
        self._redis.close()
