"""What is no record, no list or no text at all: refused with the stack's own errors."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from core import EnhancedDatabaseService
from core.errors import InvalidInput
from core.records import Tick, User


def nested(depth: int) -> dict[str, Any]:
    """Return a document that is nested too deep to walk."""
    document: dict[str, Any] = {}
    for _ in range(depth):
        document = {"d": document}
    return document


BEFORE_TIME = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))

# each is of a wrong type on purpose, hence no types here
NASTY: dict[str, Callable[[Any, User], object]] = {
    "ticks none": lambda s, _: s.insert_market_ticks(None),
    "ticks of another kind": lambda s, _: s.insert_market_ticks([{"symbol": "AAPL"}]),
    "updates a number": lambda s, _: s.batch_update_portfolios(5),
    "scores a text": lambda s, _: s.batch_update_leaderboard("b", "abc"),
    "limits none": lambda s, _: s.warm_cache(limits=None),
    "limits bytes": lambda s, _: s.warm_cache(limits=b"x"),
    "users none": lambda s, _: s.load_users(None),
    "users of none": lambda s, _: s.load_users([None]),
    "quests a text": lambda s, _: s.load_quests("x"),
    "half a character": lambda s, _: s.search_users(chr(0xD800)),
    "half a character in a name": lambda s, u: s.update_user_profile(u.id, name=chr(0xD800)),
    "half a character in a document": lambda s, u: s.update_user_profile(
        u.id, preferences={"a": chr(0xD800)}
    ),
    "a document too deep": lambda s, u: s.update_user_profile(u.id, preferences=nested(5_000)),
    "a number that msgpack does not hold": lambda s, u: s.update_user_profile(u.id, preferences={"n": 2**70}),
    "a float that comes back as such": lambda s, u: s.update_leaderboard_entry(
        u.id, "b", 1, None, {"n": [1e300]}
    ),
    "a number that Python does not spell": lambda s, u: s.update_user_profile(
        u.id, preferences={"n": 10**5_000}
    ),
    "a limit that Python does not spell": lambda s, _: s.get_leaderboard("b", limit=10**5_000),
    "a score that Python does not spell": lambda s, u: s.update_leaderboard_entry(u.id, "b", 10**5_000),
    "a score that is none": lambda s, u: s.update_leaderboard_entry(u.id, "b", Decimal("sNaN")),
    "a price of too many digits": lambda s, _: s.insert_market_tick("AAPL", Decimal("1E-20000")),
    "prices of too many digits": lambda s, _: s.insert_market_ticks(
        [Tick("AAPL", datetime.now(UTC), Decimal("1E-20000"), 0, Decimal(1), Decimal(1))]
    ),
    "a time before time": lambda s, _: s.insert_market_tick("AAPL", Decimal(1), timestamp=BEFORE_TIME),
    "a range before time": lambda s, _: s.get_price_history("AAPL", BEFORE_TIME, datetime.now(UTC), "1d"),
}


@pytest.mark.parametrize("name", NASTY)
def test_is_refused_by_name(service: EnhancedDatabaseService, alice: User, name: str) -> None:
    """The error is `InvalidInput` for every value."""
    with pytest.raises(InvalidInput):
        NASTY[name](service, alice)
    assert service.get_user_by_id(alice.id) == alice


def test_a_message_is_short(service: EnhancedDatabaseService) -> None:
    """The error for a large value fits into a log line."""
    with pytest.raises(InvalidInput) as caught:
        service.search_users("x" * 1_000_000)
    assert len(str(caught.value)) < 200
