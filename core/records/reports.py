"""Records computed from many rows of the game: summaries, distributions, gains, sparklines, quest reports.

Owns the fields of these records, in the order in which a statement selects them. Reports on all players are
in `core.records.players`. Never touches a server.
"""

from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from core.records.game import MarketEvent, Quest
from core.records.record import Record


class PlayerScore(Record, frozen=True):
    """The score of a player on a leaderboard in one session. `rank` is None unless it was requested."""

    user_id: UUID
    session_date: date
    score: Decimal
    rank: int | None


class ScoreBin(Record, frozen=True):
    """The number of players whose score on a leaderboard is in the range [low, high)."""

    low: Decimal
    high: Decimal
    players: int


class LeaderboardSummary(Record, frozen=True):
    """The summary of a leaderboard that has entries. `leaders` counts the players with the best score."""

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
    """A player on a leaderboard over several sessions.

    The caller chooses a base, which is subtracted from each score. `score` is the mean of these differences,
    in which a session without a score counts as 0. `sessions` is the number of sessions with a score. Players
    share `rank` if the sums of their differences are equal.
    """

    user_id: UUID
    username: str
    score: Decimal
    sessions: int
    rank: int


class PeriodLeaderboard(Record, frozen=True):
    """The best players of several sessions. `players` counts all players with a score in any of them."""

    days: tuple[date, ...]
    players: int
    entries: tuple[PeriodEntry, ...]


class MarketReturn(Record, frozen=True):
    """The mean gain of all symbols on one day, in percent of the first price of the day.

    `symbols` is the number of symbols with a price on this day.
    """

    day: date
    percent: Decimal
    symbols: int


class SymbolGain(Record, frozen=True):
    """The gain that one symbol added to a player's portfolio value over some sessions.

    Amounts are virtual cash. `sessions` counts the sessions in which the player held or traded the symbol.
    `bought` and `sold` are the sums of its purchases and of its sales. `realised` is the proceeds of sales
    minus the cost of the sold shares. `unrealised` is the worth of held shares at the last price of their
    session minus their cost.

    `incomplete` counts the sessions in which an amount is unknown and counts as 0. In such a session, the
    held shares have no price, or the trades do not add up to the held shares.
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
        """The total gain: `realised` plus `unrealised`."""
        return self.realised + self.unrealised


class PlayerGains(Record, frozen=True):
    """The change of a player's portfolio value over `sessions` sessions, and the gain of each symbol.

    `change` is the sum of the `day_change` of the portfolios. `symbols` is ordered by symbol.
    """

    sessions: int
    change: Decimal
    symbols: tuple[SymbolGain, ...]

    @property
    def unexplained(self) -> Decimal:
        """The rest of `change`: `change` minus the gains of all symbols."""
        return self.change - sum((symbol.gain for symbol in self.symbols), Decimal(0))


class Sparkline(Record, frozen=True):
    """The recent prices of a symbol, oldest first. `times` and `prices` have the same length."""

    symbol: str
    times: tuple[datetime, ...]
    prices: tuple[Decimal, ...]


class TradingWindow(Record, frozen=True):
    """The number of trades executed in [start, end), and the number of players who made them."""

    start: datetime
    end: datetime
    traders: int
    trades: int


class TradingSession(Record, frozen=True):
    """A session with its number of players, of players who traded, and of trades.

    `players` are the players with a portfolio. `median_return` is the median score of the leaderboard of
    daily returns, in percent. It is None while this leaderboard has no entries.
    """

    session_date: date
    players: int
    traders: int
    trades: int
    median_return: Decimal | None


EVENT_DAYS = 7
"""Maximum number of days between an event and a session that is compared with it.

Sessions further away say nothing about the event, and no market pauses for that long.
"""


class EventEffect(Record, frozen=True):
    """A market event, and the trading before and after it.

    `before` ends with the event, and `after` begins with it. `sessions` are the session of the event's day,
    the previous session and the next session, oldest first. A session that does not exist within 7 days is
    left out.
    """

    event: MarketEvent
    before: TradingWindow
    after: TradingWindow
    sessions: tuple[TradingSession, ...]


class PriceStatistics(Record, frozen=True):
    """The last price of a symbol, with the price change and the volatility at the time of this price.

    The changes and the volatility are defined as in `Tick`. The changes are None if no price is at least 24
    hours older. The volatility is None if fewer than 21 days have prices.
    """

    symbol: str
    timestamp: datetime
    price: Decimal
    change_24h: Decimal | None
    change_percent_24h: Decimal | None
    volatility: Decimal | None


class SessionSummary(Record, frozen=True):
    """The summary of one session, which is a UTC day.

    `signed_up` is the number of users at the end of the day. `played` is the number of portfolios of the
    session. `traded` is the number of players with a trade in the session.

    `players` is the number of entries on the leaderboard of daily returns. `best_return` and `median_return`
    are the best and the median score on it, in percent. They are None without entries.

    `quests_completed` counts quests by their time of completion. A quest with an unknown time counts in no
    session. `events` is the number of market events of the day.
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
    """The totals of all quests with the same type and the same type of reward.

    `given` is the number of all quests. `started` counts quests with any progress, `halfway` quests that
    reached half of the target, and `completed` completed quests. A completed quest counts as started and
    halfway too. `active` quests can still be completed, and `expiring` of them end within the requested time.

    `earned` is the sum of the rewards of completed quests, and `open` is the sum of the rewards of active
    quests.
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
    """The quests with the same type and the same type of reward that ended in one week.

    `week` is the Monday of the week (UTC), or None if the time is unknown. A quest has ended if it is
    COMPLETED, EXPIRED or past its `expires_at`. A completed quest ended at its completion. Any other quest
    ended in the last moment before its `expires_at`: a quest that expires on Monday at 00:00 belongs to the
    week before.

    `ended` is the number of all these quests. `started`, `halfway` and `completed` are defined as in
    `QuestTotals`. `earned` is the sum of the rewards of the completed quests.
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
    """The number of completed quests with one title, and the median time from start to completion."""

    type: str
    title: str
    completed: int
    median: timedelta


class CompletionTimes(Record, frozen=True):
    """The number of completed quests, and the median time from start to completion, in total and by title.

    `median` is None if no quest was completed.
    """

    completed: int
    median: timedelta | None
    titles: tuple[CompletionTime, ...]


class QuestReturn(Record, frozen=True):
    """The sessions that players played with a quest of one type, and those that they played without one.

    `returned_with` and `returned_without` count the sessions after which the same player played again within
    7 days.
    """

    type: str
    sessions_with: int
    returned_with: int
    sessions_without: int
    returned_without: int


class PlayerQuest(Record, frozen=True):
    """A quest with the username of its player."""

    username: str
    quest: Quest


class StuckQuest(Record, frozen=True):
    """A running quest that is stuck, with its player and the reasons. At least one reason is true.

    `is_untouched`: the quest has no progress. `is_behind`: the quest has progress, but less than half of the
    progress that matches the elapsed time. For example, 80% of the time is over and less than 40% of the
    target is reached. `is_unseen`: the player was not seen for 7 days.
    """

    username: str
    last_active: datetime | None
    is_untouched: bool
    is_behind: bool
    is_unseen: bool
    quest: Quest


class StuckQuests(Record, frozen=True):
    """The number of stuck quests and of their players, and the first of these quests.

    `untouched`, `behind` and `unseen` count quests by reason. A quest that is unseen can also have another
    reason.
    """

    players: int
    quests: int
    untouched: int
    behind: int
    unseen: int
    first: tuple[StuckQuest, ...]
