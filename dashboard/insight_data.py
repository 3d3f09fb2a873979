"""What the pages about everybody read: Overview, Market and Quests.

Owns the choice of calls and their limits; answers are the service's own records. Never
shows anything. Prices are at most 30 seconds old, the newest session 60 seconds, sums over
quests three minutes, earlier sessions a quarter of an hour; candles and events are as of now.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock

import msgspec

from core import EnhancedDatabaseService
from core.records import (
    Candle,
    LeaderboardEntry,
    MarketEvent,
    PlayerQuest,
    Quest,
    QuestPace,
    QuestTotals,
    SessionSummary,
    Sparkline,
    Tick,
    User,
)
from dashboard.formats import KNOWN_CATEGORIES

SESSIONS_SHOWN = 14
"""Sessions of a trend: two weeks of trading, and a line that a small chart can show."""

SPARKLINE_POINTS = 24
SPARKLINE_STEP = timedelta(hours=1)
"""The last day of a live market by the hour; of imported days each is a point."""

MARKS_SHOWN = 200
"""Events marked on a chart: more would hide the candles."""

EVENTS_OF_DAY = 20
LEADERS_SHOWN = 5
EXPIRING_SHOWN = 25
EXPIRING_WITHIN = timedelta(days=7)
SLOWEST_SHOWN = 10
PLAYER_QUESTS_SHOWN = 100


class Range(msgspec.Struct, frozen=True):
    """How much of a price's course a chart shows: `steps` steps with prices, in candles.

    Steps without prices do not count, so that a market that was closed for years, or one
    that has just opened, shows as much as any other.
    """

    name: str
    step: timedelta
    steps: int
    bucket: str
    candle: str
    labels: str
    """The time on the axis, in the form of d3-time-format."""


HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(weeks=1)
RANGES = (
    Range("1 day", HOUR, 24, "5m", "5 minutes", "%H:%M"),
    Range("1 week", DAY, 7, "30m", "30 minutes", "%-d %b %Y"),
    Range("1 month", DAY, 30, "2h", "2 hours", "%-d %b %Y"),
    Range("3 months", WEEK, 13, "8h", "8 hours", "%-d %b %Y"),
    Range("1 year", WEEK, 52, "1d", "1 day", "%-d %b %Y"),
    Range("5 years", WEEK, 261, "1w", "1 week", "%b %Y"),
    Range("10 years", 2 * WEEK, 261, "2w", "2 weeks", "%b %Y"),
)
"""Each has at most about 360 candles however many ticks there are."""

GAP_STEPS = 5
"""So many steps without a price part a range in two: the time between is not asked for."""

PERIODS_READ = 12
"""Parts of a range that are read, the newest: each is a statement."""


class Period(msgspec.Struct, frozen=True):
    """A time with prices: from `start` until before `end`."""

    start: datetime
    end: datetime


def list_prices(service: EnhancedDatabaseService) -> tuple[Tick, ...]:
    """Return the latest tick of every symbol, by symbol."""
    return service.get_latest_market_data()


def list_sparklines(service: EnhancedDatabaseService) -> tuple[Sparkline, ...]:
    """Return the recent course of every symbol's price."""
    return service.get_sparklines(points=SPARKLINE_POINTS, step=SPARKLINE_STEP)


def load_candles(service: EnhancedDatabaseService, symbol: str, chosen: Range) -> tuple[Candle, ...]:
    """Return the candles of a range that ends with the symbol's latest price, oldest first."""
    lines = service.get_sparklines([symbol], points=chosen.steps, step=chosen.step)
    periods = split_periods(lines[0].times if lines else (), step=chosen.step)
    return tuple(
        candle
        for period in periods
        for candle in service.get_price_history(symbol, period.start, period.end, chosen.bucket)
    )


def split_periods(times: Sequence[datetime], *, step: timedelta) -> tuple[Period, ...]:
    """Return the newest periods that hold these times, oldest first, without the gaps between.

    `times` are the last price of each step, oldest first.
    """
    periods: list[Period] = []
    for time in times:
        # the step may have begun as long before; the end of a period is not part of it
        start, end = time - step, time + timedelta(microseconds=1)
        if periods and time - periods[-1].end <= GAP_STEPS * step:
            periods[-1] = Period(periods[-1].start, end)
        else:
            periods.append(Period(start, end))
    return tuple(periods[-PERIODS_READ:])


def load_marks(
    service: EnhancedDatabaseService, symbol: str, candles: Sequence[Candle], *, latest: datetime
) -> tuple[MarketEvent, ...]:
    """Return the newest events of a symbol since its first candle."""
    if not candles:
        return ()
    end = latest + timedelta(microseconds=1)
    return service.list_market_events(MARKS_SHOWN, symbol=symbol, since=candles[0].bucket, until=end)


def list_events(
    service: EnhancedDatabaseService,
    *,
    type: str | None,  # noqa: A002  # the column's name
    sentiment: str | None,
    symbol: str | None,
    limit: int,
) -> tuple[MarketEvent, ...]:
    """Return the newest events that pass the filters, and one more than `limit` if there is."""
    return service.list_market_events(limit + 1, type=type, sentiment=sentiment, symbol=symbol)


def list_sessions(service: EnhancedDatabaseService) -> tuple[SessionSummary, ...]:
    """Return the newest sessions in figures, newest first."""
    return service.get_session_summaries(limit=SESSIONS_SHOWN)


def count_active(service: EnhancedDatabaseService, day: date) -> int:
    """Return how many players were active since a day began."""
    return service.count_active_players(datetime.combine(day, clock(0), UTC))


def list_leaders(service: EnhancedDatabaseService, day: date) -> tuple[LeaderboardEntry, ...]:
    """Return the best returns of a session."""
    return service.get_leaderboard(KNOWN_CATEGORIES[0].key, day, LEADERS_SHOWN)


def list_day_events(service: EnhancedDatabaseService, day: date) -> tuple[MarketEvent, ...]:
    """Return the newest events of a day."""
    begin = datetime.combine(day, clock(0), UTC)
    return service.list_market_events(EVENTS_OF_DAY, since=begin, until=begin + timedelta(days=1))


def list_quest_totals(service: EnhancedDatabaseService) -> tuple[QuestTotals, ...]:
    """Return what became of all quests, by type and kind of reward."""
    return service.get_quest_totals()


def list_expiring(service: EnhancedDatabaseService) -> tuple[PlayerQuest, ...]:
    """Return the active quests that end soon, soonest first."""
    return service.list_expiring_quests(limit=EXPIRING_SHOWN, within=EXPIRING_WITHIN)


def list_slowest(service: EnhancedDatabaseService) -> tuple[QuestPace, ...]:
    """Return the active quests that players get on with most slowly."""
    return service.list_slowest_quests(limit=SLOWEST_SHOWN)


def list_player_quests(service: EnhancedDatabaseService, user: User) -> tuple[Quest, ...]:
    """Return a player's newest quests of every status."""
    return service.get_user_quests(user.id, limit=PLAYER_QUESTS_SHOWN)
