"""The rows of the game as immutable values, and the sums over many rows.

Owns their fields (the names of the columns, in the order in which a statement selects them) and the
facts of the game that a field refers to. Never touches a server.
"""

from datetime import date, datetime, timedelta
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
CATEGORIES: Final = (DAILY_RETURNS, TOTAL_VALUE, QUESTS_COMPLETED)
"""Leaderboards of the game; others may exist beside them."""
DEFAULT_CATEGORY: Final = DAILY_RETURNS

VOLATILITY_RETURNS: Final = 20
"""Daily returns that a volatility is measured on: a month of trading days, the usual window."""
TRADING_DAYS_PER_YEAR: Final = 252
"""By which a daily deviation is annualised, whatever the days that a symbol has prices on."""

QUEST_STATUSES: Final = ("ACTIVE", "COMPLETED", "EXPIRED")
TRADE_SIDES: Final = ("BUY", "SELL")
SENTIMENTS: Final = ("POSITIVE", "NEGATIVE", "NEUTRAL")


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

    `price`, `bid`, `ask` and `change_24h` are money. `change_24h` and `change_percent_24h` (in percent) are
    against the last price at or before 24 hours before this one, None where the symbol had none then.
    `volatility` is the standard deviation of the last 20 daily log returns, annualised with 252 days a year,
    in percent. A daily return is from the last price of a UTC day with prices to that of the next; the day of
    the tick counts so far. None with fewer returns. `open`, `high` and `low` are set on ticks that stand for
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
    """A player's task; completed once `current_progress` reaches `target_value`.

    Only a completed quest has `completed_at`. There it is None when the time is unknown: the quest was
    completed before times were stored, or loaded without one.
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


# -- sums over many rows ----------------------------------------------------------------


class PlayerScore(Record, frozen=True):
    """A player's score on a leaderboard in one session; `rank` is None unless it was requested."""

    user_id: UUID
    session_date: date
    score: Decimal
    rank: int | None


class ScoreBin(Record, frozen=True):
    """Number of players whose score on a leaderboard lies in [low, high)."""

    low: Decimal
    high: Decimal
    players: int


class LeaderboardSummary(Record, frozen=True):
    """Summary of a leaderboard that has entries; `leaders` is the number of players with the best score."""

    session_date: date
    category: str
    players: int
    leader: str
    leaders: int
    best: Decimal
    median: Decimal
    worst: Decimal
    bins: tuple[ScoreBin, ...]


class PeriodEntry(Record, frozen=True):
    """A player over several sessions; `score` is the mean, and a session without a score counts as 0.

    `sessions` is the number of sessions with a score; equal sums share `rank`.
    """

    user_id: UUID
    username: str
    score: Decimal
    sessions: int
    rank: int


class PeriodLeaderboard(Record, frozen=True):
    """The best players of several sessions; `players` counts those with a score in any of them."""

    days: tuple[date, ...]
    players: int
    entries: tuple[PeriodEntry, ...]


class MarketReturn(Record, frozen=True):
    """Mean gain of `symbols` symbols in one day, in percent of the first price of the day."""

    day: date
    percent: Decimal
    symbols: int


class SymbolGain(Record, frozen=True):
    """What one symbol added to a player's value over some sessions; amounts are in virtual cash.

    `sessions` counts those in which the player held or traded it, `bought` and `sold` are the sums of
    its trades. `realised` is what sales brought in less what those shares cost, `unrealised` what held
    shares are worth at the last price of their session less what they cost. `incomplete` sessions have
    no price of the shares held, or trades that do not add up to them; what is not known counts as 0.
    """

    symbol: str
    sessions: int
    trades: int
    bought: Decimal
    sold: Decimal
    realised: Decimal
    unrealised: Decimal
    incomplete: int

    @property
    def gain(self) -> Decimal:
        """What the symbol added to the player's value."""
        return self.realised + self.unrealised


class PlayerGains(Record, frozen=True):
    """A player's change of value over `sessions` sessions, and what each symbol added to it, by symbol.

    `change` is the sum of the day changes of the portfolios.
    """

    sessions: int
    change: Decimal
    symbols: tuple[SymbolGain, ...]

    @property
    def unexplained(self) -> Decimal:
        """The rest of the change: with the gains of all symbols it adds up to `change` exactly."""
        return self.change - sum((symbol.gain for symbol in self.symbols), Decimal(0))


class Sparkline(Record, frozen=True):
    """Recent prices of a symbol, oldest first; `times` and `prices` have the same length."""

    symbol: str
    times: tuple[datetime, ...]
    prices: tuple[Decimal, ...]


class TradingWindow(Record, frozen=True):
    """The trades executed in [start, end), and the number of players who made them."""

    start: datetime
    end: datetime
    traders: int
    trades: int


class TradingSession(Record, frozen=True):
    """A session: players with a portfolio, those of them who traded, and the median daily return in percent.

    The median is that of the leaderboard of returns, None while it is empty.
    """

    session_date: date
    players: int
    traders: int
    trades: int
    median_return: Decimal | None


class EventEffect(Record, frozen=True):
    """A market event between what players did before and after it.

    `before` ends and `after` begins with the event. `sessions` are the session of its day, the last one
    before and the first one after it, those that exist, oldest first.
    """

    event: MarketEvent
    before: TradingWindow
    after: TradingWindow
    sessions: tuple[TradingSession, ...]


class PriceStatistics(Record, frozen=True):
    """What follows from the stored prices of a symbol up to its last one, defined as in `Tick`.

    None where the symbol has no price of 24 hours before, or fewer than 21 days with prices.
    """

    symbol: str
    timestamp: datetime
    price: Decimal
    change_24h: Decimal | None
    change_percent_24h: Decimal | None
    volatility: Decimal | None


class SessionSummary(Record, frozen=True):
    """Summary of one session, which is a UTC day.

    `signed_up` is the number of users at the end of the day, `played` the number of portfolios of the
    session, `traded` the number of players with a trade in it. `players` is the number of entries on
    the leaderboard of returns, whose best and median are in percent and None without entries.
    `quests_completed` counts quests by their time of completion; those whose time is unknown count in
    no session. `events` is the number of market events of the day.
    """

    session_date: date
    signed_up: int
    played: int
    traded: int
    players: int
    best_return: Decimal | None
    median_return: Decimal | None
    quests_completed: int
    events: int


class QuestTotals(Record, frozen=True):
    """All quests of one type and kind of reward.

    `started`, `halfway` and `completed` are subsets of `given`, each of the one before; `active` quests
    can still be completed, and `expiring` of them end within the requested time. Rewards are sums:
    `earned` over the completed quests, `open` over the active ones.
    """

    type: str
    reward_type: str | None
    given: int
    started: int
    halfway: int
    completed: int
    active: int
    expiring: int
    earned: Decimal
    open: Decimal


class QuestOutcome(Record, frozen=True):
    """The quests of one type and kind of reward that ended in one week.

    `week` is the Monday of the week (UTC), None when the time is unknown. A quest has ended when it is
    COMPLETED, EXPIRED or past its `expires_at`: at its completion, otherwise in the last moment of its
    time, so that a quest until Monday 00:00 belongs to the week before. `started`, `halfway` and
    `completed` are subsets of `ended`, each of the one before. `earned` is the sum of the rewards of the
    completed quests.
    """

    week: date | None
    type: str
    reward_type: str | None
    ended: int
    started: int
    halfway: int
    completed: int
    earned: Decimal


class CompletionTime(Record, frozen=True):
    """How many quests of one title were completed, and the median time from start to completion."""

    type: str
    title: str
    completed: int
    median: timedelta


class CompletionTimes(Record, frozen=True):
    """How many quests were completed, and the median time from start to completion: of all, and by title.

    `median` is None when none was completed.
    """

    completed: int
    median: timedelta | None
    titles: tuple[CompletionTime, ...]


class QuestReturn(Record, frozen=True):
    """Sessions of players with and without a quest of one type, and after how many they played again."""

    type: str
    sessions_with: int
    returned_with: int
    sessions_without: int
    returned_without: int


class PlayerQuest(Record, frozen=True):
    """A quest with the name of its player."""

    username: str
    quest: Quest


class StuckQuest(Record, frozen=True):
    """A running quest that is stuck, its player, and why; at least one reason holds.

    `is_untouched`: it has no progress. `is_behind`: it has some, but not half as much as the part of its
    time that is over. `is_unseen`: its player was not seen for 7 days.
    """

    username: str
    last_active: datetime | None
    is_untouched: bool
    is_behind: bool
    is_unseen: bool
    quest: Quest


class StuckQuests(Record, frozen=True):
    """How many players and running quests are stuck, the quests for each reason, and the first of them.

    A quest may be counted as unseen and under another reason.
    """

    players: int
    quests: int
    untouched: int
    behind: int
    unseen: int
    first: tuple[StuckQuest, ...]
