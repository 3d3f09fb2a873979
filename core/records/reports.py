"""Values computed from many rows of the game: summaries, distributions, gains, sparklines, quest reports.

Owns the fields of these values, in the order in which a statement selects them. Reports on all players are
in `core.records.players`. Never touches a server.
"""

from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from core.records.game import MarketEvent, Quest
from core.records.record import Record


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

    `sessions` counts the sessions in which the player held or traded the symbol, `bought` and `sold` are the
    sums of its trades. `realised` is the proceeds of sales minus the cost of the sold shares, `unrealised`
    the worth of held shares at the last price of their session minus their cost. `incomplete` counts the
    sessions that have no price of the held shares, or trades that do not add up to the held shares; an
    unknown amount counts as 0.
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


EVENT_DAYS = 7
"""A session further from an event than this says nothing about it; no market pauses for that long."""


class EventEffect(Record, frozen=True):
    """A market event, and what players did before and after it.

    `before` ends and `after` begins with the event. `sessions` are the session of its day, the last one
    before and the first one after it, oldest first, those that exist within 7 days.
    """

    event: MarketEvent
    before: TradingWindow
    after: TradingWindow
    sessions: tuple[TradingSession, ...]


class PriceStatistics(Record, frozen=True):
    """Change and volatility at a symbol's last price, computed from stored prices; defined as in `Tick`.

    The changes are None without a price of 24 hours before, the volatility with fewer than 21 days with
    prices.
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
    COMPLETED, EXPIRED or past its `expires_at`. Its end is its completion, otherwise the last moment of its
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
    """Sessions played with and without a quest of one type.

    `returned_...` counts those of the sessions after which the same player started another one in time.
    """

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

    `is_untouched`: it has no progress. `is_behind`: it has progress, but a smaller part of its target than
    half of the part of its time that is over. `is_unseen`: its player was not seen for 7 days.
    """

    username: str
    last_active: datetime | None
    is_untouched: bool
    is_behind: bool
    is_unseen: bool
    quest: Quest


class StuckQuests(Record, frozen=True):
    """How many players and running quests are stuck, how many quests for each reason, and the first quests.

    A quest may be counted as unseen and under another reason.
    """

    players: int
    quests: int
    untouched: int
    behind: int
    unseen: int
    first: tuple[StuckQuest, ...]
