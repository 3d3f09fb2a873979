"""Market events: what moved the market."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from core.cache import Cached
from core.cache.kinds import MARKET_EVENTS, version_key
from core.queries import events as queries
from core.records import MarketEvent
from core.service.base import ServiceBase, new_id
from core.service.inputs import (
    CENT,
    MAX_DESCRIPTION,
    MAX_IMPACT,
    MIN_IMPACT,
    check_decimal,
    check_id,
    check_limit,
    check_sentiment,
    check_symbols,
    check_text,
    find_end_of_time,
)

MARKET_EVENTS_VERSION_KEY = version_key(MARKET_EVENTS)

_RECENT = Cached(
    MARKET_EVENTS,
    tuple[MarketEvent, ...],
    lambda limit: f"market_events:recent:{limit}",
    depends_on=lambda _: (MARKET_EVENTS_VERSION_KEY,),
)


class Events(ServiceBase):
    """The market events area of the service."""

    def get_recent_market_events(self, limit: int = 20) -> tuple[MarketEvent, ...]:
        """Return the most recent events, newest first.

        At most 600 s old, and never older than the last event created or deleted through a service.
        Events after tomorrow (UTC), which an older release could store, are left out. Raises
        `InvalidInput`.
        """
        return self._cache.get_or_load(_RECENT, self._load_recent, check_limit(limit))

    def _load_recent(self, limit: int) -> tuple[MarketEvent, ...]:
        end = find_end_of_time(self._clock())
        return self._read("get_recent_market_events", queries.list_recent, end, limit)

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
        """Create an event as of now and return it.

        The impact is in percent, rounded half-even to two decimals. Raises `InvalidInput`.
        """
        values: dict[str, Any] = {
            "id": new_id(),
            "type": check_text(type, "type", most=50),
            "title": check_text(title, "title", most=200),
            "description": check_text(description, "description", most=MAX_DESCRIPTION, required=False),
            "affected_symbols": check_symbols(affected_symbols, "affected_symbols"),
            "impact_magnitude": _check_impact(impact_magnitude),
            "sentiment": check_sentiment(sentiment),
            "created_at": self._clock(),
        }
        with self._changing("create_market_event") as (database, changes):
            changes.invalidate(MARKET_EVENTS_VERSION_KEY)
            return queries.insert_event(database, values)

    def delete_market_event(self, event_id: UUID | str) -> bool:
        """Delete an event and say whether it existed. Raises `InvalidInput`."""
        checked = check_id(event_id, "event_id")
        with self._changing("delete_market_event") as (database, changes):
            changes.invalidate(MARKET_EVENTS_VERSION_KEY)
            return queries.delete_event(database, checked)


def _check_impact(value: Any) -> Decimal | None:
    if value is None:
        return None
    return check_decimal(value, "impact_magnitude", least=MIN_IMPACT, most=MAX_IMPACT, quantum=CENT)
