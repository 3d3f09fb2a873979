"""The row types of the raw contender.

Numbers, times and ids have the same types in rows from PostgreSQL and in rows from Redis.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec


class EntryRow(msgspec.Struct):
    """An entry of a leaderboard, with username and rank."""

    id: UUID
    user_id: UUID
    username: str
    session_date: date
    category: str
    score: Decimal
    rank: int
    metadata: dict[str, Any]
    created_at: datetime


class PortfolioRow(msgspec.Struct):
    """A row of `portfolios`."""

    id: UUID
    user_id: UUID
    session_date: date
    starting_cash: Decimal
    current_cash: Decimal
    total_value: Decimal
    day_change: Decimal
    day_change_percent: Decimal
    created_at: datetime
    updated_at: datetime


class TickRow(msgspec.Struct):
    """A row of `ticks`."""

    symbol: str
    timestamp: datetime
    price: Decimal
    volume: int
    bid: Decimal | None
    ask: Decimal | None
    change_24h: Decimal | None
    change_percent_24h: Decimal | None
    volatility: Decimal | None
    open: Decimal | None
    high: Decimal | None
    low: Decimal | None


class UserRow(msgspec.Struct):
    """A row of `users`."""

    id: UUID
    username: str
    name: str | None
    email: str | None
    last_active: datetime | None
    preferences: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class QuestRow(msgspec.Struct):
    """A row of `quests`."""

    id: UUID
    user_id: UUID
    type: str
    title: str
    description: str | None
    target_value: Decimal
    current_progress: Decimal
    status: str
    reward_type: str | None
    reward_value: Decimal | None
    created_at: datetime
    expires_at: datetime | None
