"""The drivers without a library: hand-written SQL, cache-aside, and msgpack values.

Each batch is one statement, one MGET or one UNLINK, and each process loads a cold key only once. As in every
simple cache-aside, reads race with writes: a late SET can store an old row after a write has deleted the key.
"""

import threading
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

import msgspec

from core import Settings
from core.records import PortfolioUpdate, Tick
from tests.bench.contenders import statements
from tests.bench.contenders.connections import Connections, Psycopg2, Psycopg3, open_redis
from tests.bench.contenders.contender import GameContender
from tests.bench.contenders.rows import EntryRow, PortfolioRow, TickRow
from tests.bench.data import LIMIT, LIMITS

LEADERBOARD_SECONDS = 120
PORTFOLIO_SECONDS = 60
MARKET_SECONDS = 30
# Number of locks for all keys. Loads of two keys with the same lock wait for each other, which is rare.
LOCKS = 256


class Raw(GameContender):
    """One driver of PostgreSQL and redis-py, without any other library."""

    connections: ClassVar[type[Connections]]

    def __init__(self, settings: Settings, *, number: int) -> None:
        super().__init__()
        self._connections = self.connections(settings)
        # Any, because redis-py is annotated as if replies could also be texts
        self._redis: Any = open_redis(settings, number=number)
        self._decode_leaderboard = msgspec.msgpack.Decoder(list[EntryRow]).decode
        self._decode_portfolio = msgspec.msgpack.Decoder(PortfolioRow).decode
        self._decode_tick = msgspec.msgpack.Decoder(TickRow).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    def get_leaderboard(self, limit: int = LIMIT) -> Sequence[Any]:
        """Return the value of one cache key, or load it."""

        def load() -> Sequence[Any]:
            self.count_load()
            return statements.select_leaderboard(self._connections, limit)

        rows: Sequence[Any] = self._read(
            f"leaderboard:{limit}", LEADERBOARD_SECONDS, load, self._decode_leaderboard
        )
        return rows

    def get_portfolio(self, user_id: UUID) -> Any:
        """Return the value of one cache key, or load it."""

        def load() -> Any:
            return statements.select_portfolio(self._connections, user_id)

        return self._read(f"portfolio:{user_id}", PORTFOLIO_SECONDS, load, self._decode_portfolio)

    def get_market(self, symbols: Sequence[str]) -> Sequence[Any]:
        """Read all values with one MGET, then load the missing ticks with one statement."""
        stored = self._redis.mget([f"tick:{symbol}" for symbol in symbols])
        found = [self._decode_tick(value) for value in stored if value is not None]
        missing = [symbol for symbol, value in zip(symbols, stored, strict=True) if value is None]
        if missing:
            found += self._load_market(missing)
        return sorted(found, key=lambda row: row.symbol)

    def _load_market(self, symbols: Sequence[str]) -> Sequence[Any]:
        rows = statements.select_latest(self._connections, symbols)
        with self._redis.pipeline(transaction=False) as pipeline:
            for row in rows:
                pipeline.set(f"tick:{row.symbol}", self._encode(row), ex=MARKET_SECONDS)
            pipeline.execute()
        return rows

    def _read(self, key: str, seconds: int, load: Callable[[], Any], decode: Callable[[bytes], Any]) -> Any:
        stored = self._redis.get(key)
        if stored is not None:
            return decode(stored)
        # one load per cold key: a caller that waited for the lock finds the value of the first caller
        lock = self._locks[hash(key) % LOCKS]
        has_waited = not lock.acquire(blocking=False)
        if has_waited:
            lock.acquire()
        try:
            stored = self._redis.get(key) if has_waited else None
            return self._fill(key, seconds, load) if stored is None else decode(stored)
        finally:
            lock.release()

    def _fill(self, key: str, seconds: int, load: Callable[[], Any]) -> Any:
        value = load()
        self._redis.set(key, self._encode(value), ex=seconds)
        return value

    def get_rank(self, user_id: UUID, category: str) -> Any:
        """Select one entry with its rank."""
        return statements.select_rank(self._connections, user_id, category)

    def update_score(self, user_id: UUID, score: Decimal, category: str) -> Any:
        """Write the entry, then delete the cache keys of all limits with one command."""
        row = statements.upsert_score(self._connections, user_id, score, category)
        self._redis.delete(*(f"leaderboard:{limit}" for limit in LIMITS))
        return row

    def update_portfolio(self, user_id: UUID, total_value: Decimal) -> Any:
        """Write the row, then delete its cache key."""
        row = statements.update_portfolio(self._connections, user_id, total_value)
        self._redis.delete(f"portfolio:{user_id}")
        return row

    def update_portfolios(self, updates: Sequence[PortfolioUpdate]) -> int:
        """Write all rows with one statement, then delete their cache keys with one command."""
        count = statements.update_portfolios(self._connections, updates)
        self._redis.unlink(*(f"portfolio:{update.user_id}" for update in updates))
        return count

    def update_profile(self, user_id: UUID, name: str) -> Any:
        """Write the row, then delete its cache key."""
        row = statements.update_user(self._connections, user_id, name)
        self._redis.delete(f"user:{user_id}")
        return row

    def update_quest(self, quest_id: UUID, progress: Decimal) -> Any:
        """Write the quest, then delete the cache key of its player's quests."""
        row = statements.update_quest(self._connections, quest_id, progress)
        self._redis.delete(f"quests:{row.user_id}")
        return row

    def search(self, prefix: str) -> Sequence[Any]:
        """Select the players."""
        return statements.search_users(self._connections, prefix)

    def insert_tick(self, tick: Tick) -> None:
        """Write the row, then delete its cache key."""
        statements.insert_tick(self._connections, tick)
        self._redis.delete(f"tick:{tick.symbol}")

    def insert_ticks(self, ticks: Sequence[Tick]) -> int:
        """Write all rows with one statement, then delete their cache keys with one command."""
        count = statements.insert_ticks(self._connections, ticks)
        self._redis.unlink(*{f"tick:{tick.symbol}" for tick in ticks})
        return count

    def close(self) -> None:
        """Close every connection."""
        self._connections.close()
        self._redis.close()


class RawPsycopg2(Raw):
    """The raw contender with psycopg2."""

    name: ClassVar[str] = "raw, psycopg2"
    connections: ClassVar[type[Connections]] = Psycopg2


class RawPsycopg3(Raw):
    """The raw contender with psycopg 3."""

    name: ClassVar[str] = "raw, psycopg 3"
    connections: ClassVar[type[Connections]] = Psycopg3
