"""The rows of the game as values: users, portfolios, market, boards, quests, events.

Owns shapes only: attributes are the column names. Never touches a server.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from frozendict import frozendict

from core.records.record import Record


class User(Record, frozen=True):
    """A player's profile."""

    id: UUID
    username: str
    name: str | None
    email: str | None
    last_active: datetime | None
    preferences: frozendict[str, Any]
    created_at: datetime
    updated_at: datetime


class Portfolio(Record, frozen=True):
    """A player's portfolio in one session; amounts are virtual cash with two decimals."""

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


class PortfolioUpdate(Record, frozen=True):
    """One row of `batch_update_portfolios`; `current_cash` None leaves the cash as it is.

    Amounts are rounded half-even to two decimals.
    """

    user_id: UUID | str
    session_date: date
    total_value: Decimal
    day_change: Decimal
    current_cash: Decimal | None = None


class Position(Record, frozen=True):
    """What a player holds of one symbol in one session; `average_price` is what a share cost.

    Cash plus quantity times price, each rounded to the cent, is the value of the portfolio.
    """

    user_id: UUID
    session_date: date
    symbol: str
    quantity: Decimal
    average_price: Decimal


class Trade(Record, frozen=True):
    """One purchase (`side` BUY) or sale (SELL) of a player in a session."""

    id: UUID
    user_id: UUID
    session_date: date
    symbol: str
    side: str
    quantity: Decimal
    price: Decimal
    executed_at: datetime


class PlayerSession(Record, frozen=True):
    """Names what a player has in one session."""

    user_id: UUID
    session_date: date


class BatchResult(Record, frozen=True):
    """What a batch did: rows written, and the keys for which no row exists."""

    updated: int
    missing: tuple[PlayerSession, ...]


class Tick(Record, frozen=True):
    """A price of one symbol at one time.

    `price`, `bid`, `ask` and `change_24h` are money, `change_percent_24h` is in
    percent, `volatility` is the annualised standard deviation of daily log
    returns in percent. `open`, `high` and `low` are set on ticks that stand for
    a whole bar, such as an imported trading day; `price` is then its close.
    """

    symbol: str
    timestamp: datetime
    price: Decimal
    volume: int = 0
    bid: Decimal | None = None
    ask: Decimal | None = None
    change_24h: Decimal | None = None
    change_percent_24h: Decimal | None = None
    volatility: Decimal | None = None
    open: Decimal | None = None
    high: Decimal | None = None
    low: Decimal | None = None


class Candle(Record, frozen=True):
    """Open, high, low, close and volume of one bucket, aggregated by the database."""

    symbol: str
    bucket: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int
    ticks: int


class LeaderboardEntry(Record, frozen=True):
    """One row of a leaderboard; equal scores share `rank` (1, 2, 2, 4). A score has two decimals."""

    id: UUID
    user_id: UUID
    username: str
    session_date: date
    category: str
    score: Decimal
    rank: int
    metadata: frozendict[str, Any]
    created_at: datetime


class LeaderboardUpdate(Record, frozen=True):
    """One row of `batch_update_leaderboard`; the score is rounded half-even to two decimals.

    Metadata that is None or empty leaves what is there.
    """

    user_id: UUID | str
    score: Decimal
    metadata: dict[str, object] | None = None


class Quest(Record, frozen=True):
    """A player's task; completed once `current_progress` reaches `target_value`."""

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


class MarketEvent(Record, frozen=True):
    """Something that moved the market; `impact_magnitude` is in percent, with two decimals."""

    id: UUID
    type: str
    title: str
    description: str | None
    affected_symbols: tuple[str, ...]
    impact_magnitude: Decimal | None
    sentiment: str
    created_at: datetime
