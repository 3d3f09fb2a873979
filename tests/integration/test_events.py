"""Tests of market events: creation, order, cache key and validation."""

import math
from decimal import Decimal
from typing import Any

import pytest
import redis

from core import EnhancedDatabaseService
from core.errors import InvalidInput
from tests.conftest import Execute


def test_recent_events_are_newest_first_and_current(service: EnhancedDatabaseService) -> None:
    """After an event is created or deleted, the cached list of each length is current and newest first."""
    first = service.create_market_event(type="NEWS", title="First")
    for limit in (1, 5, 20):
        assert service.get_recent_market_events(limit) == (first,)
    second = service.create_market_event(
        type="PRICE_MOVE",
        title="AAPL rose 7.2%",
        affected_symbols=["AAPL"],
        impact_magnitude=Decimal("7.204"),
        sentiment="POSITIVE",
    )
    assert second.impact_magnitude == Decimal("7.20")
    assert second.affected_symbols == ("AAPL",)
    for limit in (1, 5, 20):
        assert service.get_recent_market_events(limit) == (second, first)[:limit]
    assert service.delete_market_event(second.id)
    assert not service.delete_market_event(second.id)
    assert service.get_recent_market_events() == (first,)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": ""}, "type is ''"),
        ({"title": "t" * 201}, "title is"),
        ({"affected_symbols": "AAPL"}, "symbols is 'AAPL'"),
        ({"affected_symbols": ["aapl"]}, "symbol is 'aapl'"),
        ({"impact_magnitude": 1000}, "impact_magnitude is 1000"),
        ({"impact_magnitude": math.nan}, "impact_magnitude is nan"),
        ({"sentiment": "HAPPY"}, "sentiment is 'HAPPY'; give one of POSITIVE, NEGATIVE, NEUTRAL"),
    ],
)
def test_invalid_input_creates_no_event(
    service: EnhancedDatabaseService, execute: Execute, values: dict[str, Any], message: str
) -> None:
    """An invalid argument raises an error that contains the value, and no row is written."""
    with pytest.raises(InvalidInput, match=message):
        service.create_market_event(**{"type": "T", "title": "T", **values})
    assert execute("SELECT count(*) FROM market_events") == [(0,)]


def test_the_cache_key_and_ttl_of_recent_events(
    service: EnhancedDatabaseService, redis_client: redis.Redis
) -> None:
    """`get_recent_market_events(20)` fills the documented key with a TTL of at most 600 s."""
    service.get_recent_market_events(20)
    assert 520 < redis_client.ttl("market_events:recent:20") <= 600
