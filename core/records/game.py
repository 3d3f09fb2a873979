"""The rows of the tables of the game, as immutable records.

Owns the fields of these records and the constants that belong to them. The fields have the names of the
columns, in the order in which a statement selects them. Sums over many rows are in `core.records.reports`.
Never touches a server.
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
"""Number of daily returns from which volatility is computed: about a month of trading days, as is usual."""
TRADING_DAYS_PER_YEAR: Final = 252
"""Number of days with which volatility is annualised, also for a symbol that has prices on weekends."""

QUEST_STATUSES: Final = ("ACTIVE", "COMPLETED", "EXPIRED")
TRADE_SIDES: Final = ("BUY", "SELL")
SENTIMENTS: Final = ("POSITIVE", "NEGATIVE", "NEUTRAL")


class StoredUser(Record, frozen=True):
    """The profile of a player as the table and the cache store it. The e-mail address is encrypted."""

    id: UUID
    username: str
    name: str | None
    email: str | None
    last_active: datetime | None
    preferences: frozendict[str, Any]
    created_at: datetime
    updated_at: datetime


class User(StoredUser, frozen=True):
    """The profile of a player.

    If the e-mail address cannot be decrypted, `email` is the reason in parentheses instead of an address.
    """

    def __repr__(self) -> str:
        return f"User({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return the fields to show in logs and error messages. The e-mail address is masked."""
        hidden = {"email"} if self.email is not None else set()
        return [(name, "***" if name in hidden else getattr(self, name)) for name in self.__struct_fields__]


class Portfolio(Record, frozen=True):
    """The portfolio of a player in one session. Amounts are virtual cash with two decimals."""

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
    """One row of `batch_update_portfolios`. If `current_cash` is None, the stored cash stays as it is.

    Amounts are rounded half-even to two decimals.
    """

    user_id: UUID | str
    session_date: date
    total_value: Decimal
    day_change: Decimal
    current_cash: Decimal | None = None


class Position(Record, frozen=True):
    """The shares of one symbol that a player holds in one session.

    `average_price` is the mean cost of one share. The value of a portfolio is its cash plus the value of each
    position. The value of a position is quantity times price, rounded to the cent.
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
    """A player and a session, which together are the key of a portfolio."""

    user_id: UUID
    session_date: date


class BatchResult(Record, frozen=True):
    """The result of a batch: the number of rows written, and the keys for which no row exists."""

    updated: int
    missing: tuple[PlayerSession, ...]


class Tick(Record, frozen=True):
    """The price of one symbol at one time.

    `price`, `bid`, `ask`, `change_24h`, `open`, `high` and `low` are money. `open`, `high` and `low` are set
    only on a tick that stands for a whole bar, such as an imported trading day. `price` is then the close of
    the bar.

    `change_24h` and `change_percent_24h` (in percent) compare the price with the last price that is at least
    24 hours older. They are None if there is no such price.

    `volatility` is the standard deviation of the last 20 daily log returns, annualised with 252 days a year,
    in percent. It is None with fewer returns. A daily return compares the last price of a UTC day with the
    last price of the previous day that has prices. On the day of the tick, the last price is the price of the
    tick.
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
    """Open, high, low, close and volume of the ticks in one bucket of time, aggregated by the database.

    `bucket` is the start of the bucket, and `ticks` is the number of its ticks.
    """

    symbol: str
    bucket: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int
    ticks: int


class LeaderboardEntry(Record, frozen=True):
    """One entry of a leaderboard. Equal scores share `rank` (1, 2, 2, 4). A score has two decimals."""

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
    """One row of `batch_update_leaderboard`. The score is rounded half-even to two decimals.

    If `metadata` is None or empty, the stored metadata stays as it is.
    """

    user_id: UUID | str
    score: Decimal
    metadata: dict[str, object] | None = None


class Quest(Record, frozen=True):
    """A task of a player. It is completed when `current_progress` reaches `target_value`.

    `completed_at` is None if the quest is not completed. It is also None if the quest is completed but the
    time is unknown: an earlier release completed the quest without storing a time, or the quest was loaded
    without a time.
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
    """An event that moved the market.

    `impact_magnitude` is the price move in percent with two decimals. It is negative for a fall.
    """

    id: UUID
    type: str
    title: str
    description: str | None
    affected_symbols: tuple[str, ...]
    impact_magnitude: Decimal | None
    sentiment: str
    created_at: datetime
