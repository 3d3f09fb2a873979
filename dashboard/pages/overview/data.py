"""What the overview reads from the service; each function is one section of the page.

The newest session and the players seen are at most a minute old, earlier sessions a quarter of an hour.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta

import msgspec

from core import EnhancedDatabaseService
from core.records import LeaderboardEntry, MarketEvent, SessionSummary, Sparkline, Tick
from dashboard import scores
from dashboard.data import is_open_session
from dashboard.formats import KNOWN_CATEGORIES
from dashboard.pages.market.data import list_sparklines, list_ticks

SESSIONS_SHOWN = 14
"""Sessions of a trend: two weeks of trading fit into a small chart."""

EVENTS_SHOWN = 20
EVENTS_NAMED = 500
"""Events read for the marks of the chart: the newest of two weeks, at most some dozen a day."""

LEADERS_SHOWN = 5


class Sessions(msgspec.Struct, frozen=True):
    """The newest sessions, newest first; `is_open` says that the newest is not finished."""

    summaries: tuple[SessionSummary, ...]
    is_open: bool


class Counts(msgspec.Struct, frozen=True):
    """Players seen today, and completed quests that count in no session."""

    seen_today: int
    undated_quests: int


class Market(msgspec.Struct, frozen=True):
    """The latest prices with the trend of each symbol."""

    ticks: tuple[Tick, ...]
    sparklines: tuple[Sparkline, ...]


def load_sessions(service: EnhancedDatabaseService) -> Sessions:
    """Return the newest sessions in figures; no summaries before the first one."""
    summaries = service.get_session_summaries(limit=SESSIONS_SHOWN)
    is_open = bool(summaries) and is_open_session(summaries[0].session_date, datetime.now(UTC))
    return Sessions(summaries, is_open=is_open)


def load_counts(service: EnhancedDatabaseService) -> Counts:
    """Return the figures that belong to no session."""
    return Counts(service.count_seen_players(), service.count_undated_quests())


def load_marked_events(service: EnhancedDatabaseService, sessions: Sessions) -> tuple[MarketEvent, ...]:
    """Return the events of the sessions, newest first."""
    days = [row.session_date for row in sessions.summaries]
    return _list_events(service, days, limit=EVENTS_NAMED)


def load_leaders(service: EnhancedDatabaseService, day: date) -> tuple[LeaderboardEntry, ...]:
    """Return the players with the best returns of a session."""
    source = scores.find_source(service, KNOWN_CATEGORIES[0], day)
    return source.put_scores(service, service.get_leaderboard(source.rank_key, day, LEADERS_SHOWN))


def load_market(service: EnhancedDatabaseService) -> Market:
    """Return the latest prices."""
    ticks = list_ticks(service)
    return Market(ticks, list_sparklines(service) if ticks else ())


def load_events(service: EnhancedDatabaseService, day: date) -> tuple[MarketEvent, ...]:
    """Return the newest events of a day, newest first."""
    return _list_events(service, [day], limit=EVENTS_SHOWN)


def _list_events(
    service: EnhancedDatabaseService, days: Sequence[date], *, limit: int
) -> tuple[MarketEvent, ...]:
    begin, end = (datetime.combine(day, time(0), UTC) for day in (min(days), max(days)))
    return service.list_market_events(limit, since=begin, until=end + timedelta(days=1))
