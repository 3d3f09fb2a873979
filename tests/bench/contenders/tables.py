"""The tables as classes of SQLAlchemy's ORM; the migrations create the tables themselves."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Row(DeclarativeBase):
    """Base class of the rows of all tables."""

    type_annotation_map = {datetime: DateTime(timezone=True), dict[str, Any]: JSONB, str: Text}  # noqa: RUF012  # SQLAlchemy expects a class attribute

    def as_mapping(self) -> dict[str, Any]:
        """Return the columns as a mapping that needs no session."""
        return {column.key: getattr(self, column.key) for column in self.__table__.columns}


class UserRow(Row):
    """A player, with only the columns that the benchmark reads."""

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    username: Mapped[str]


class PortfolioRow(Row):
    """A player's portfolio of one session."""

    __tablename__ = "portfolios"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    session_date: Mapped[date]
    starting_cash: Mapped[Decimal]
    current_cash: Mapped[Decimal]
    total_value: Mapped[Decimal]
    day_change: Mapped[Decimal]
    day_change_percent: Mapped[Decimal]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class EntryRow(Row):
    """A player's score on one leaderboard."""

    __tablename__ = "leaderboard_entries"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    session_date: Mapped[date]
    category: Mapped[str]
    score: Mapped[Decimal]
    entry_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", key="entry_metadata")
    created_at: Mapped[datetime]


class TickRow(Row):
    """A tick: the price of one symbol at one time."""

    __tablename__ = "ticks"

    symbol: Mapped[str] = mapped_column(primary_key=True)
    timestamp: Mapped[datetime] = mapped_column(primary_key=True)
    price: Mapped[Decimal]
    volume: Mapped[int] = mapped_column(BigInteger)
    bid: Mapped[Decimal | None]
    ask: Mapped[Decimal | None]
