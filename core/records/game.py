"""The rows of the game as immutable values.

Owns their fields (the names of the columns, in the order in which a statement selects them) and the
constants of the game that a field refers to. Sums over many rows are in `core.records.reports`. Never touches
a server.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from frozendict import frozendict

from core.records.record import Record

STARTING_CASH: Final = Decimal(10_000)
"""Virtual cash of a new portfolio."""

DAILY_RETURNS: Final = "daily_returns"
TOTAL_VALUE: Final = "total_value"
QUESTS_COMPLETED: Final = "quests_completed"

VOLATILITY_RETURNS: Final = 20
"""Number of daily returns from which volatility is computed: a month of trading days, the usual window."""
TRADING_DAYS_PER_YEAR: Final = 252
"""Annualises a daily standard deviation, whatever days a symbol has prices on."""

QUEST_STATUSES: Final = ("ACTIVE", "COMPLETED", "EXPIRED")
TRADE_SIDES: Final = ("BUY", "SELL")
SENTIMENTS: Final = ("POSITIVE", "NEGATIVE", "NEUTRAL")


class StoredUser(Record, frozen=True):
    """A player's profile as the table and the cache have it: the e-mail address is encrypted."""

    id: UUID
    username: str
    name: str | None
    email: str | None
    last_active: datetime | None
    preferences: frozendict[str, Any]
    created_at: datetime
    updated_at: datetime


class User(StoredUser, frozen=True):
    """A player's profile.

    If the e-mail address cannot be decrypted, `email` is the reason in parentheses, which is no address.
    """

    def __repr__(self) -> str:
        return f"User({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return the fields to show in logs and error messages; the e-mail address is masked."""
        hidden = {"email"} if self.email is not None else set()
        return [(name, "***" if name in hidden else getattr(self, name)) for name in self.__struct_fields__]


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
    """Shares of one symbol that a player holds in one session; `average_price` is the cost of a share.

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
    """A player and a session: the key of a portfolio."""

    user_id: UUID
    session_date: date


class BatchResult(Record, frozen=True):
    """Result of a batch: number of rows written, and the keys for which no row exists."""

    updated: int
    missing: tuple[PlayerSession, ...]


class Tick(Record, frozen=True):
    """A price of one symbol at one time.

    `price`, `bid`, `ask` and `change_24h` are money. `change_24h` and `change_percent_24h` (in percent)
    compare the price with the last price that is at least 24 hours older, and are None if there is none.
    `volatility` is the standard deviation of the last 20 daily log returns, annualised with 252 days a year,
    in percent; None with fewer returns. A daily return is from the last price of a UTC day with prices to the
    last price of the next such day; the day of the tick counts up to the tick. `open`, `high` and `low` are
    set on ticks that stand for a whole bar, such as an imported trading day; `price` is then the bar's close.
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

    Metadata that is None or empty keeps the stored metadata.
    """

    user_id: UUID | str
    score: Decimal
    metadata: dict[str, object] | None = None


class Quest(Record, frozen=True):
    """A player's task; completed once `current_progress` reaches `target_value`.

    `completed_at` is None in a quest that is not completed, and in a completed quest whose time is unknown:
    the quest was completed before times were stored, or loaded without one.
    """

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
    completed_at: datetime | None = None


class MarketEvent(Record, frozen=True):
    """Something that moved the market.

    `impact_magnitude` is the move in percent with two decimals, negative for a fall.
    """

    id: UUID
    type: str
    title: str
    description: str | None
    affected_symbols: tuple[str, ...]
    impact_magnitude: Decimal | None
    sentiment: str
    created_at: datetime
