"""SQLAlchemy 2 and dogpile.cache with its Redis backend, used as their documentation recommends.

Each call has its own session and uses ORM statements. The cache region runs each creator under a lock.
Batches use bulk statements.
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar
from urllib.parse import quote
from uuid import UUID, uuid4

from dogpile.cache import make_region
from dogpile.cache.api import NO_VALUE
from sqlalchemy import create_engine, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from core import Settings
from core.records import PortfolioUpdate, Tick
from tests.bench.contenders.connections import redis_url
from tests.bench.contenders.contender import Contender
from tests.bench.contenders.tables import EntryRow, PortfolioRow, TickRow, UserRow
from tests.bench.data import CATEGORY, DAY, LIMIT, LIMITS

LEADERBOARD_SECONDS = 120
PORTFOLIO_SECONDS = 60
MARKET_SECONDS = 30
INSERT_ROWS = 1_000


class Dogpile(Contender):
    """SQLAlchemy's ORM with a dogpile.cache region."""

    name: ClassVar[str] = "SQLAlchemy + dogpile"

    def __init__(self, settings: Settings, *, number: int) -> None:
        super().__init__()
        url = settings.database_url.get_secret_value().replace("postgresql:", "postgresql+psycopg2:")
        limit = settings.database_connection_limit
        self._engine = create_engine(url, pool_size=limit, max_overflow=0)
        # the Redis backend of dogpile.cache accepts a password only in its URL
        password = settings.redis_password.get_secret_value() if settings.redis_password else ""
        address = redis_url(settings, number=number).replace("://", f"://:{quote(password)}@")
        options = {
            "url": address,
            "distributed_lock": True,
            "thread_local_lock": False,
        }
        self._region = make_region().configure("dogpile.cache.redis", arguments=options)

    def get_leaderboard(self, limit: int = LIMIT) -> Sequence[Any]:
        """Return the value of one cache key, or load it."""
        rows: Sequence[Any] = self._region.get_or_create(
            f"leaderboard:{limit}", partial(self._load_entries, limit), expiration_time=LEADERBOARD_SECONDS
        )
        return rows

    def _load_entries(self, limit: int) -> list[dict[str, Any]]:
        self.count_load()
        top = aliased(
            EntryRow,
            select(EntryRow)
            .where(EntryRow.session_date == DAY, EntryRow.category == CATEGORY)
            .order_by(EntryRow.score.desc(), EntryRow.created_at, EntryRow.id)
            .limit(limit)
            .subquery(),
        )
        rank = func.rank().over(order_by=top.score.desc())
        query = (
            select(top, UserRow.username, rank)
            .join(UserRow, UserRow.id == top.user_id)
            .order_by(top.score.desc(), top.created_at, top.id)
        )
        with Session(self._engine) as session:
            return [
                {**entry.as_mapping(), "username": username, "rank": position}
                for entry, username, position in session.execute(query)
            ]

    def get_portfolio(self, user_id: UUID) -> Any:
        """Return the value of one cache key, or load it."""

        def load() -> Any:
            query = select(PortfolioRow).where(
                PortfolioRow.user_id == user_id, PortfolioRow.session_date == DAY
            )
            with Session(self._engine) as session:
                return session.scalars(query).one().as_mapping()

        return self._region.get_or_create(f"portfolio:{user_id}", load, expiration_time=PORTFOLIO_SECONDS)

    def get_market(self, symbols: Sequence[str]) -> Sequence[Any]:
        """Return the values of many cache keys; the creator loads the missing values."""

        def load(*keys: str) -> list[Any]:
            with Session(self._engine) as session:
                return [self._load_tick(session, key.removeprefix("tick:")) for key in keys]

        keys = [f"tick:{symbol}" for symbol in sorted(symbols)]
        rows: Sequence[Any] = self._region.get_or_create_multi(keys, load, expiration_time=MARKET_SECONDS)
        return rows

    @staticmethod
    def _load_tick(session: Session, symbol: str) -> Any:
        query = select(TickRow).where(TickRow.symbol == symbol).order_by(TickRow.timestamp.desc()).limit(1)
        row = session.scalars(query).first()
        return NO_VALUE if row is None else row.as_mapping()

    def update_score(self, user_id: UUID, score: Decimal, category: str) -> Any:
        """Write the entry, then delete the cache keys of all limits."""
        row = {"id": uuid4(), "user_id": user_id, "session_date": DAY, "category": category, "score": score}
        statement = (
            insert(EntryRow)
            .values(row)
            .on_conflict_do_update(
                index_elements=["user_id", "session_date", "category"], set_={"score": score}
            )
        )
        with Session(self._engine) as session:
            session.execute(statement)
            session.commit()
        self._region.delete_multi([f"leaderboard:{limit}" for limit in LIMITS])

    def update_portfolio(self, user_id: UUID, total_value: Decimal) -> None:
        """Write the row, then delete its cache key."""
        statement = (
            update(PortfolioRow)
            .where(PortfolioRow.user_id == user_id, PortfolioRow.session_date == DAY)
            .values(total_value=total_value, updated_at=func.now())
        )
        with Session(self._engine) as session:
            session.execute(statement)
            session.commit()
        self._region.delete(f"portfolio:{user_id}")

    def update_portfolios(self, updates: Sequence[PortfolioUpdate]) -> int:
        """Select the primary keys, update the rows by primary key in bulk, then delete the cache keys."""
        by_user = {update.user_id: update for update in updates}
        query = select(PortfolioRow.id, PortfolioRow.user_id).where(
            PortfolioRow.user_id.in_(by_user), PortfolioRow.session_date == DAY
        )
        with Session(self._engine) as session:
            found = session.execute(query).all()
            rows = [_values_of(row_id, by_user[user_id]) for row_id, user_id in found]
            session.execute(update(PortfolioRow), rows)
            session.commit()
        self._region.delete_multi([f"portfolio:{user_id}" for user_id in by_user])
        return len(rows)

    def insert_tick(self, tick: Tick) -> None:
        """Write the row, then delete its cache key."""
        self.insert_ticks([tick])

    def insert_ticks(self, ticks: Sequence[Tick]) -> int:
        """Insert a thousand rows per statement, then delete the cache keys."""
        with Session(self._engine) as session:
            for start in range(0, len(ticks), INSERT_ROWS):
                session.execute(_upsert(ticks[start : start + INSERT_ROWS]))
            session.commit()
        self._region.delete_multi(list({f"tick:{tick.symbol}" for tick in ticks}))
        return len(ticks)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()
        self._region.backend.writer_client.close()


def _values_of(row_id: UUID, change: PortfolioUpdate) -> dict[str, Any]:
    before = change.total_value - change.day_change
    return {
        "id": row_id,
        "total_value": change.total_value,
        "day_change": change.day_change,
        "day_change_percent": round(change.day_change / before * 100, 2),
    }


def _upsert(ticks: Sequence[Tick]) -> Any:
    names = ("symbol", "timestamp", "price", "volume", "bid", "ask")
    statement = insert(TickRow).values([{name: getattr(tick, name) for name in names} for tick in ticks])
    changing = {name: statement.excluded[name] for name in names[2:]}
    return statement.on_conflict_do_update(index_elements=["symbol", "timestamp"], set_=changing)
