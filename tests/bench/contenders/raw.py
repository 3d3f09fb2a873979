"""The bare drivers: hand-written SQL, plain cache-aside, values as msgpack.

Owns what a careful person does without a library: sets of rows at once, one MGET, one
pipelined DEL, one load per cold key in the process. Reads race with writes, as in every
plain cache-aside: a late SET may put an old row back.
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
from tests.bench.contenders.connections import Connections
from tests.bench.contenders.contender import Contender
from tests.bench.contenders.rows import EntryRow, PortfolioRow, TickRow

BOARD_KEY = "board"
BOARD_SECONDS = 120
PORTFOLIO_SECONDS = 60
MARKET_SECONDS = 30
# Two keys that share a lock wait for each other, which is rare and harmless.
LOCKS = 256


class Raw(Contender):
    """psycopg2 and redis-py, nothing between."""

    name: ClassVar[str] = "raw"

    def __init__(self, settings: Settings, *, number: int) -> None:
        super().__init__()
        self._connections = Connections(settings, number=number)
        # redis-py's annotations hold for text replies too
        self._redis: Any = self._connections.redis
        self._decode_board = msgspec.msgpack.Decoder(list[EntryRow]).decode
        self._decode_portfolio = msgspec.msgpack.Decoder(PortfolioRow).decode
        self._decode_tick = msgspec.msgpack.Decoder(TickRow).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    def get_leaderboard(self) -> Sequence[Any]:
        """Read one value."""
        rows: Sequence[Any] = self._read(BOARD_KEY, BOARD_SECONDS, self._load_board, self._decode_board)
        return rows

    def _load_board(self) -> Sequence[Any]:
        self.count_load()
        with self._connections.borrow() as connection, connection.cursor() as cursor:
            return statements.select_board(cursor)

    def get_portfolio(self, user_id: UUID) -> Any:
        """Read one value."""

        def load() -> Any:
            with self._connections.borrow() as connection, connection.cursor() as cursor:
                return statements.select_portfolio(cursor, user_id)

        return self._read(f"portfolio:{user_id}", PORTFOLIO_SECONDS, load, self._decode_portfolio)

    def get_market(self, symbols: Sequence[str]) -> Sequence[Any]:
        """Read all values with one MGET, load what is missing with one statement."""
        stored = self._redis.mget([f"tick:{symbol}" for symbol in symbols])
        found = [self._decode_tick(value) for value in stored if value is not None]
        missing = [symbol for symbol, value in zip(symbols, stored, strict=True) if value is None]
        if missing:
            found += self._load_market(missing)
        return sorted(found, key=lambda row: row.symbol)

    def _load_market(self, symbols: Sequence[str]) -> Sequence[Any]:
        with self._connections.borrow() as connection, connection.cursor() as cursor:
            rows = statements.select_latest(cursor, symbols)
        with self._redis.pipeline(transaction=False) as pipeline:
            for row in rows:
                pipeline.set(f"tick:{row.symbol}", self._encode(row), ex=MARKET_SECONDS)
            pipeline.execute()
        return rows

    def _read(self, key: str, seconds: int, load: Callable[[], Any], decode: Callable[[bytes], Any]) -> Any:
        stored = self._redis.get(key)
        if stored is not None:
            return decode(stored)
        # one load per cold key: who had to wait finds what the other stored
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

    def update_portfolio(self, user_id: UUID, total_value: Decimal) -> None:
        """Write, then drop the key."""
        with self._connections.borrow() as connection, connection.cursor() as cursor:
            statements.update_portfolio(cursor, user_id, total_value)
        self._redis.delete(f"portfolio:{user_id}")

    def update_portfolios(self, updates: Sequence[PortfolioUpdate]) -> int:
        """Write with one statement, then drop the keys with one command."""
        with self._connections.transaction() as connection, connection.cursor() as cursor:
            count = statements.update_portfolios(cursor, updates)
        self._redis.unlink(*(f"portfolio:{update.user_id}" for update in updates))
        return count

    def insert_tick(self, tick: Tick) -> None:
        """Write, then drop the key."""
        with self._connections.borrow() as connection, connection.cursor() as cursor:
            statements.insert_tick(cursor, tick)
        self._redis.delete(f"tick:{tick.symbol}")

    def insert_ticks(self, ticks: Sequence[Tick]) -> int:
        """Write by COPY, then drop the keys with one command."""
        with self._connections.transaction() as connection, connection.cursor() as cursor:
            count = statements.insert_ticks(cursor, ticks)
        self._redis.unlink(*{f"tick:{tick.symbol}" for tick in ticks})
        return count

    def close(self) -> None:
        """Close every connection."""
        self._connections.close()
