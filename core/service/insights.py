"""Insights: the market, the sessions and the quests of all players, summed up for people.

What is cached here is not invalidated by writes, so every answer says how old it can be.
"""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any
from uuid import UUID

from core.cache import Cached
from core.cache.kinds import LEADERBOARD, MARKET, MARKET_EVENTS, QUESTS, USER
from core.queries import insights as queries
from core.queries import quest_insights as quest_queries
from core.records import MarketEvent, PlayerQuest, Quest, QuestPace, QuestTotals, SessionSummary, Sparkline
from core.service.base import ServiceBase
from core.service.events import MARKET_EVENTS_VERSION_KEY
from core.service.inputs import (
    check_before,
    check_bucket,
    check_category,
    check_id,
    check_limit,
    check_record,
    check_sentiment,
    check_symbol,
    check_symbols,
    check_text,
    check_time,
    check_whole,
    find_end_of_time,
)
from core.service.paging import check_after, find_place, stream_pages

# Long enough that many open pages cost one statement, short enough for a page that refreshes.
MARKET_SECONDS = 15
SUMMARY_SECONDS = 60
# Sessions before the newest change only when somebody corrects them.
PAST_SECONDS = 900
MAX_POINTS = 500
MAX_SESSIONS = 100


def _name_width(width: timedelta) -> str:
    """Return a width in seconds for a key: two widths that differ have two keys."""
    return str(width.total_seconds()).removesuffix(".0")


def _session_key(returns: str, quests: str, day: date) -> str:
    return f"leaderboard:summary:{returns}:{quests}:{day}"


_EVENT_TYPES = Cached(
    MARKET_EVENTS,
    tuple[str, ...],
    lambda: "market_events:types",
    depends_on=lambda: (MARKET_EVENTS_VERSION_KEY,),
)
# The reads below are summaries that no write invalidates.
_SPARKLINES = Cached(
    MARKET,
    tuple[Sparkline, ...],
    lambda count, width: f"market:sparklines:{count}:{_name_width(width)}",
    ttl_seconds=MARKET_SECONDS,
    time_dependent=True,
)
_NEWEST_SESSION = Cached(
    LEADERBOARD, SessionSummary, _session_key, ttl_seconds=SUMMARY_SECONDS, time_dependent=True
)
_PAST_SESSIONS = Cached(
    LEADERBOARD, SessionSummary, _session_key, ttl_seconds=PAST_SECONDS, time_dependent=True
)
_ACTIVE_PLAYERS = Cached(
    USER,
    int,
    lambda since: f"user:active:{since.isoformat()}",
    ttl_seconds=SUMMARY_SECONDS,
    time_dependent=True,
)
_QUEST_TOTALS = Cached(
    QUESTS, tuple[QuestTotals, ...], lambda width: f"quests:totals:{_name_width(width)}", time_dependent=True
)
_EXPIRING = Cached(
    QUESTS,
    tuple[PlayerQuest, ...],
    lambda count, width: f"quests:expiring:{count}:{_name_width(width)}",
    ttl_seconds=SUMMARY_SECONDS,
    time_dependent=True,
)
_SLOWEST = Cached(QUESTS, tuple[QuestPace, ...], lambda count: f"quests:slowest:{count}", time_dependent=True)


class Insights(ServiceBase):
    """The insights area of the service."""

    def get_sparklines(
        self,
        symbols: Sequence[str] | None = None,
        *,
        points: int = 24,
        step: str | timedelta = timedelta(hours=1),
    ) -> tuple[Sparkline, ...]:
        """Return the course of each symbol's price (None: of all), ordered by symbol.

        A point is the last price of a step; steps without prices are skipped, so that a
        sparkline has `points` of them whenever there are. Prices after tomorrow (UTC) are left out.
        One statement for all symbols. At most 15 s old for all symbols, as of now for some. Raises
        `InvalidInput`.
        """
        width = check_bucket(step, "step")
        count = check_whole(points, "points", least=1, most=MAX_POINTS)
        checked = None if symbols is None else check_symbols(symbols)

        def load(count: int, width: timedelta) -> tuple[Sparkline, ...]:
            end = find_end_of_time(self._clock())
            return self._read("get_sparklines", queries.list_sparklines, checked, count, width, end)

        if checked is not None:
            return load(count, width)
        return self._cache.get_or_load(_SPARKLINES, load, count, width)

    def list_market_events(
        self,
        limit: int = 50,
        *,
        type: str | None = None,
        sentiment: str | None = None,
        symbol: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: MarketEvent | None = None,
        before: MarketEvent | None = None,
    ) -> tuple[MarketEvent, ...]:
        """Return the newest events that pass every filter given, newest first, as of now.

        `since` is included and `until` is not (None: the end of tomorrow in UTC, because an older
        release could store later events). `after` is the last event of the page before; `before`
        is its older name. Raises `InvalidInput`.
        """
        filters = self._check_filters(type=type, sentiment=sentiment, symbol=symbol, since=since, until=until)
        last = check_after(after, MarketEvent)
        if before is not None:
            last = check_record(before, MarketEvent, "before")
        operation, count = "list_market_events", check_limit(limit)
        return self._read(operation, queries.list_events, filters, before=find_place(last), limit=count)

    def stream_market_events(
        self,
        *,
        type: str | None = None,
        sentiment: str | None = None,
        symbol: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: MarketEvent | None = None,
    ) -> Iterator[MarketEvent]:
        """Yield every event that passes every filter given, newest first; 2,000 are held at a time.

        The filters are those of `list_market_events`. Each 2,000 are one statement, as of then, and
        no connection is held between them. `after` continues behind an event. Raises `InvalidInput`.
        """
        filters = self._check_filters(type=type, sentiment=sentiment, symbol=symbol, since=since, until=until)

        def load(last: MarketEvent | None, limit: int) -> tuple[MarketEvent, ...]:
            operation, place = "stream_market_events", find_place(last)
            return self._read(operation, queries.list_events, filters, before=place, limit=limit)

        return stream_pages(load, check_after(after, MarketEvent))

    def _check_filters(
        self, *, type: Any, sentiment: Any, symbol: Any, since: Any, until: Any
    ) -> dict[str, Any]:
        return {
            "type": check_text(type, "type", most=50, required=False),
            "sentiment": None if sentiment is None else check_sentiment(sentiment),
            "symbol": None if symbol is None else check_symbol(symbol),
            "since": None if since is None else check_time(since, "since"),
            "until": find_end_of_time(self._clock()) if until is None else check_time(until, "until"),
        }

    def list_market_event_types(self) -> tuple[str, ...]:
        """Return the types that events have, in alphabetical order.

        At most 600 s old, and never older than the last event created or deleted through a service.
        """
        load = partial(self._read, "list_market_event_types", queries.list_event_types)
        return self._cache.get_or_load(_EVENT_TYPES, load)

    def get_session_summaries(
        self, *, limit: int = 14, returns: str = "daily_returns", quests: str = "quests_completed"
    ) -> tuple[SessionSummary, ...]:
        """Return the newest sessions that have a leaderboard in figures, newest first.

        `returns` and `quests` name the leaderboards that the figures are taken from. The newest is
        at most 60 s old, the others 900 s. Sessions after tomorrow, which an older release could
        store, are left out. Raises `InvalidInput`.
        """
        count = check_whole(limit, "limit", least=1, most=MAX_SESSIONS)
        boards = {"returns": check_category(returns, "returns"), "quests": check_category(quests, "quests")}
        before = check_before(None, self._clock())
        days = self._read("get_session_summaries", queries.list_session_days, count, before)
        by_key = {_session_key(boards["returns"], boards["quests"], day): day for day in days}

        def load(missing: Sequence[date]) -> dict[date, SessionSummary]:
            found = self._read("get_session_summaries", queries.list_sessions, missing, **boards)
            return {summary.session_date: summary for summary in found}

        newest, past = dict(islice(by_key.items(), 1)), dict(islice(by_key.items(), 1, None))
        found = {
            **self._cache.get_or_load_many(_NEWEST_SESSION, newest, load),
            **self._cache.get_or_load_many(_PAST_SESSIONS, past, load),
        }
        return tuple(found[key] for key in by_key if key in found)

    def count_active_players(self, since: datetime) -> int:
        """Return how many players were active at a time or later; at most 60 s old. Raises `InvalidInput`."""

        def load(since: datetime) -> int:
            return self._read("count_active_players", queries.count_active, since)

        return self._cache.get_or_load(_ACTIVE_PLAYERS, load, check_time(since, "since"))

    def get_quest_totals(self, *, within: timedelta = timedelta(hours=24)) -> tuple[QuestTotals, ...]:
        """Return what became of all quests, by type and kind of reward.

        `within` is how soon a quest ends that counts as expiring. At most 180 s old. Raises
        `InvalidInput`.
        """

        def load(width: timedelta) -> tuple[QuestTotals, ...]:
            now = self._clock()
            return self._read("get_quest_totals", quest_queries.sum_quests, now, now + width)

        return self._cache.get_or_load(_QUEST_TOTALS, load, check_bucket(within, "within"))

    def list_expiring_quests(
        self, *, limit: int = 20, within: timedelta = timedelta(days=7)
    ) -> tuple[PlayerQuest, ...]:
        """Return the active quests that end within a time, soonest first.

        Of those that end together the nearest to its target comes first. At most 60 s old; what
        ended meanwhile is left out. Raises `InvalidInput`.
        """
        count, width, now = check_limit(limit), check_bucket(within, "within"), self._clock()

        def load(count: int, width: timedelta) -> tuple[PlayerQuest, ...]:
            return self._read("list_expiring_quests", quest_queries.list_expiring, count, now, now + width)

        found = self._cache.get_or_load(_EXPIRING, load, count, width)
        return tuple(item for item in found if item.quest.expires_at and item.quest.expires_at > now)

    def list_slowest_quests(self, *, limit: int = 10) -> tuple[QuestPace, ...]:
        """Return the active quests by title, those first with least progress for each day open.

        At most 180 s old. Raises `InvalidInput`.
        """

        def load(count: int) -> tuple[QuestPace, ...]:
            return self._read("list_slowest_quests", quest_queries.list_slowest, count, self._clock())

        return self._cache.get_or_load(_SLOWEST, load, check_limit(limit))

    def get_user_quests(
        self, user_id: UUID | str, *, limit: int = 100, after: Quest | None = None
    ) -> tuple[Quest, ...]:
        """Return up to `limit` quests of a user, of every status, newest first, as of now.

        `after` is the last quest of the page before. A user without quests, or one that does not
        exist, has none. Raises `InvalidInput`.
        """
        checked, count = check_id(user_id, "user_id"), check_limit(limit)
        place = find_place(check_after(after, Quest, user_id=checked))
        return self._read("get_user_quests", quest_queries.list_of_user, checked, count, after=place)
