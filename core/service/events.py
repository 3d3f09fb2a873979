"""Market events: lists, creates and deletes them, and measures their effect on trading."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from core.cache import Cached
from core.cache.kinds import MARKET_EVENTS, version_key
from core.database import Database
from core.queries import events as queries
from core.records import EventEffect, MarketEvent
from core.service.argument_checks import (
    CENT,
    MAX_DESCRIPTION,
    MAX_IMPACT,
    MIN_IMPACT,
    check_after,
    check_before,
    check_decimal,
    check_duration,
    check_id,
    check_limit,
    check_record,
    check_sentiment,
    check_symbol,
    check_symbols,
    check_text,
    check_time,
    find_end_of_tomorrow,
    find_place,
)
from core.service.paging import stream_pages
from core.service.writes import ServiceBase, format_width, new_id

MARKET_EVENTS_VERSION_KEY = version_key(MARKET_EVENTS)

_RECENT = Cached(
    MARKET_EVENTS,
    tuple[MarketEvent, ...],
    lambda limit: f"market_events:recent:{limit}",
    depends_on=lambda _: (MARKET_EVENTS_VERSION_KEY,),
)
_TYPES = Cached(
    MARKET_EVENTS,
    tuple[str, ...],
    lambda: "market_events:types",
    depends_on=lambda: (MARKET_EVENTS_VERSION_KEY,),
)


def _effect_key(event_id: UUID, window: timedelta) -> str:
    return f"market_events:effect:{event_id}:{format_width(window)}"


# Creating or deleting any event invalidates the cached effects of all events. A new trade or score does not,
# although an effect counts trades and contains a median score: a cached effect expires after 60 s.
_EFFECT = Cached(
    MARKET_EVENTS,
    tuple[EventEffect, ...],
    _effect_key,
    depends_on=lambda *_: (MARKET_EVENTS_VERSION_KEY,),
    ttl_seconds=60,
    time_dependent=True,
)
MIN_WINDOW, MAX_WINDOW = timedelta(minutes=1), timedelta(days=31)


class Events(ServiceBase):
    """Calls of the service about market events."""

    def get_recent_market_events(self, limit: int = 20) -> tuple[MarketEvent, ...]:
        """Return the most recent events, newest first.

        The answer is at most 600 s old, and never older than the last event created or deleted through the
        service. Events after tomorrow (UTC), which an older release could store, are left out. Raises
        `InvalidInput`.
        """

        def load(limit: int) -> tuple[MarketEvent, ...]:
            return self._read(queries.list_recent, find_end_of_tomorrow(self._clock()), limit)

        return self._cache.get_or_load(_RECENT, load, check_limit(limit))

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
        """Return the newest events that match every given filter, newest first, uncached.

        Lists events with a time in [`since`, `until`). With `until` None the period ends at the end of
        tomorrow (UTC): an older release could store later events, which are not listed. `after` is the last
        event of the previous page; `before` is an older name for `after`. Raises `InvalidInput`.
        """
        filters = self._check_filters(type=type, sentiment=sentiment, symbol=symbol, since=since, until=until)
        last = check_after(after, MarketEvent)
        if before is not None:
            last = check_record(before, MarketEvent, "before")
        return self._read(queries.list_events, filters, after=find_place(last), limit=check_limit(limit))

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
        """Yield every event that matches every given filter, newest first.

        The filters are those of `list_market_events`. Reads batches of 2,000 events. Each batch is one
        statement with its own snapshot, and no connection is held between batches. `after` is the last event
        already read. Raises `InvalidInput`.
        """
        filters = self._check_filters(type=type, sentiment=sentiment, symbol=symbol, since=since, until=until)

        def load(last: MarketEvent | None, limit: int) -> tuple[MarketEvent, ...]:
            return self._read(queries.list_events, filters, after=find_place(last), limit=limit)

        return stream_pages(load, check_after(after, MarketEvent))

    def _check_filters(
        self, *, type: Any, sentiment: Any, symbol: Any, since: Any, until: Any
    ) -> dict[str, Any]:
        return {
            "type": check_text(type, "type", max_length=50, required=False),
            "sentiment": None if sentiment is None else check_sentiment(sentiment),
            "symbol": None if symbol is None else check_symbol(symbol),
            "since": None if since is None else check_time(since, "since"),
            "until": find_end_of_tomorrow(self._clock()) if until is None else check_time(until, "until"),
        }

    def list_market_event_types(self) -> tuple[str, ...]:
        """Return the different types of all events, in alphabetical order.

        The answer is at most 600 s old, and never older than the last event created or deleted through the
        service.
        """
        return self._cache.get_or_load(_TYPES, lambda: self._read(queries.list_types))

    def find_event_effect(
        self, event_id: UUID | str, window: timedelta = timedelta(minutes=30)
    ) -> EventEffect | None:
        """Return what players did before and after an event, or None if the event does not exist.

        Counts trades, and the players who made them, in five periods: the `window` (a minute to 31 days)
        before the event, the `window` after it, the session of the event's day, the last session before that
        day, and the first session after it. Sessions more than 7 days away are left out. Each session also
        has a median return. The two windows have none, because a portfolio has only one value per session.
        The answer is at most 60 s old. Raises `InvalidInput`.
        """
        checked = check_id(event_id, "event_id")
        width = check_duration(window, "window", minimum=MIN_WINDOW, maximum=MAX_WINDOW)

        def load(event_id: UUID, width: timedelta) -> tuple[EventEffect, ...]:
            return self._read(self._measure_effect, event_id, width)

        found = self._cache.get_or_load(_EFFECT, load, checked, width)
        return found[0] if found else None

    def _measure_effect(
        self, database: Database, event_id: UUID, width: timedelta
    ) -> tuple[EventEffect, ...]:
        event = queries.find_event(database, event_id)
        if event is None:
            return ()
        before, after = queries.list_windows(database, event.created_at, width)
        day, beyond = event.created_at.astimezone(UTC).date(), check_before(None, self._clock())
        sessions = queries.list_sessions(database, day, beyond=beyond)
        return (EventEffect(event, before, after, sessions),)

    def create_market_event(
        self,
        *,
        type: str,
        title: str,
        description: str | None = None,
        affected_symbols: Sequence[str] = (),
        impact_magnitude: Decimal | None = None,
        sentiment: str = "NEUTRAL",
    ) -> MarketEvent:
        """Create an event with the current time, and return it.

        `impact_magnitude` is in percent, and is rounded half-even to two decimals. Raises `InvalidInput`.
        """
        values: dict[str, Any] = {
            "id": new_id(),
            "type": check_text(type, "type", max_length=50),
            "title": check_text(title, "title", max_length=200),
            "description": check_text(description, "description", max_length=MAX_DESCRIPTION, required=False),
            "affected_symbols": check_symbols(affected_symbols, "affected_symbols"),
            "impact_magnitude": _check_impact(impact_magnitude),
            "sentiment": check_sentiment(sentiment),
            "created_at": self._clock(),
        }
        with self._write() as (database, changes):
            changes.invalidate(MARKET_EVENTS_VERSION_KEY)
            return queries.insert_event(database, values)

    def delete_market_event(self, event_id: UUID | str) -> bool:
        """Delete an event. Return whether the event existed. Raises `InvalidInput`."""
        checked = check_id(event_id, "event_id")
        with self._write() as (database, changes):
            changes.invalidate(MARKET_EVENTS_VERSION_KEY)
            return queries.delete_event(database, checked)


def _check_impact(value: Any) -> Decimal | None:
    if value is None:
        return None
    return check_decimal(value, "impact_magnitude", minimum=MIN_IMPACT, maximum=MAX_IMPACT, quantum=CENT)
