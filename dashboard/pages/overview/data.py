"""Reads the values of the Overview page from the service. Each `load_` function loads one section.

The leaders of the newest session and their returns are at most two minutes out of date. All other values of
the newest session, and the number of players seen today, are at most one minute out of date. Values of
earlier sessions, and the number of completed quests without a time of completion, are at most 15 minutes out
of date. Prices are at most 30 seconds out of date. Events are read each time.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta

import msgspec

from core import EnhancedDatabaseService
from core.records import LeaderboardEntry, MarketEvent, SeenPlayers, SessionSummary, Sparkline, Tick
from dashboard import exact_ranks
from dashboard.categories import KNOWN_CATEGORIES
from dashboard.pages.market.data import list_sparklines, list_ticks

SESSIONS_SHOWN = 14
"""Number of sessions in a trend: as many as fit into a small chart."""

EVENTS_SHOWN = 20
EVENTS_COUNTED = 1_000
"""The events of a day are counted up to this number."""
EVENTS_MARKED = 500
"""Maximum number of events that are read for the marks of the chart.

Few days have more than some dozen events.
"""

LEADERS_SHOWN = 5
DAY = timedelta(days=1)


class Sessions(msgspec.Struct, frozen=True):
    """Summaries of the last sessions, newest first. The session of `today` is open; the others are finished.

    `leaders` are the players with the best returns of the newest session. The summary of this session has the
    return of the first leader as its best return.
    """

    summaries: tuple[SessionSummary, ...]
    today: date
    leaders: tuple[LeaderboardEntry, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether the newest session is still open."""
        return bool(self.summaries) and self.summaries[0].session_date >= self.today


class Counts(msgspec.Struct, frozen=True):
    """The number of players seen today, and the number of completed quests without a time of completion."""

    seen_today: SeenPlayers
    undated_quests: int


class Market(msgspec.Struct, frozen=True):
    """The newest ticks and the recent prices of the symbols that have a price in the last 24 hours.

    The 24 hours end at the time of the newest price of all symbols. `stale` is the number of symbols left
    out.
    """

    ticks: tuple[Tick, ...]
    sparklines: tuple[Sparkline, ...]
    stale: int = 0


class DayEvents(msgspec.Struct, frozen=True):
    """The newest events of a day, and the number of all its events, at most EVENTS_COUNTED."""

    newest: tuple[MarketEvent, ...]
    total: int


def load_sessions(service: EnhancedDatabaseService) -> Sessions:
    """Return the last sessions and the leaders of the newest session. Without sessions, both are empty."""
    today = datetime.now(UTC).date()
    summaries = service.get_session_summaries(limit=SESSIONS_SHOWN)
    if not summaries:
        return Sessions((), today)
    newest, *earlier = summaries
    leaders = _list_leaders(service, newest.session_date)
    if leaders:
        # the summary can be a minute older than the leaders; the page must not show two different best
        # returns
        newest = msgspec.structs.replace(newest, best_return=leaders[0].score)
    return Sessions((newest, *earlier), today, leaders)


def load_counts(service: EnhancedDatabaseService) -> Counts:
    """Return the number of players seen today, and of completed quests without a time of completion."""
    return Counts(service.get_seen_players(), service.count_undated_quests())


def load_marked_events(service: EnhancedDatabaseService, sessions: Sessions) -> tuple[MarketEvent, ...]:
    """Return the market events from the first to the last day of the sessions, newest first."""
    days = [row.session_date for row in sessions.summaries]
    return _list_events(service, days, limit=EVENTS_MARKED)


def load_market(service: EnhancedDatabaseService) -> Market:
    """Return the symbols that have a price in the 24 hours before the newest price."""
    ticks = list_ticks(service)
    newest = max((tick.timestamp for tick in ticks), default=datetime.max.replace(tzinfo=UTC))
    # a price whose time is in the future must not make all other symbols stale
    end = min(newest, datetime.now(UTC))
    moving = tuple(tick for tick in ticks if end - tick.timestamp < DAY)
    return Market(moving, list_sparklines(service) if moving else (), stale=len(ticks) - len(moving))


def load_events(service: EnhancedDatabaseService, day: date) -> DayEvents:
    """Return the newest market events of a day, newest first, and the number of all events of the day."""
    events = _list_events(service, [day], limit=EVENTS_COUNTED)
    return DayEvents(events[:EVENTS_SHOWN], len(events))


def _list_events(
    service: EnhancedDatabaseService, days: Sequence[date], *, limit: int
) -> tuple[MarketEvent, ...]:
    begin, end = (datetime.combine(day, time(0), UTC) for day in (min(days), max(days)))
    return service.list_market_events(limit, since=begin, until=end + DAY)


def _list_leaders(service: EnhancedDatabaseService, day: date) -> tuple[LeaderboardEntry, ...]:
    source = exact_ranks.find_source(service, KNOWN_CATEGORIES[0], day)
    return source.replace_scores(service, service.get_leaderboard(source.rank_key, day, LEADERS_SHOWN))
