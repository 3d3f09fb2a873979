"""Arguments of a wrong type or far out of range raise `InvalidInput`, not an error of Python or a library."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from core import EnhancedDatabaseService
from core.errors import InvalidInput
from core.records import Tick, User


def nested(depth: int) -> dict[str, Any]:
    """Return a document with `depth` levels."""
    document: dict[str, Any] = {}
    for _ in range(depth):
        document = {"d": document}
    return document


BEFORE_TIME = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))

# The values are untyped, because the wrong types are intended.
WRONG_CALLS: dict[str, Callable[[Any, User], object]] = {
    "ticks none": lambda s, _: s.insert_market_ticks(None),
    "ticks as mappings": lambda s, _: s.insert_market_ticks([{"symbol": "AAPL"}]),
    "updates a number": lambda s, _: s.batch_update_portfolios(5),
    "scores a text": lambda s, _: s.batch_update_leaderboard("b", "abc"),
    "limits none": lambda s, _: s.warm_cache(limits=None),
    "limits bytes": lambda s, _: s.warm_cache(limits=b"x"),
    "users none": lambda s, _: s.load_users(None),
    "users with none": lambda s, _: s.load_users([None]),
    "quests a text": lambda s, _: s.load_quests("x"),
    "a lone surrogate": lambda s, _: s.search_users(chr(0xD800)),
    "a lone surrogate in a name": lambda s, u: s.update_user_profile(u.id, name=chr(0xD800)),
    "a lone surrogate in a document": lambda s, u: s.update_user_profile(
        u.id, preferences={"a": chr(0xD800)}
    ),
    "a document too deep": lambda s, u: s.update_user_profile(u.id, preferences=nested(5_000)),
    "a number too large for msgpack": lambda s, u: s.update_user_profile(u.id, preferences={"n": 2**70}),
    "a float that jsonb stores as a large integer": lambda s, u: s.update_leaderboard_entry(
        u.id, "b", 1, None, {"n": [1e300]}
    ),
    "a number with too many digits for str": lambda s, u: s.update_user_profile(
        u.id, preferences={"n": 10**5_000}
    ),
    "a limit with too many digits for str": lambda s, _: s.get_leaderboard("b", limit=10**5_000),
    "a score with too many digits for str": lambda s, u: s.update_leaderboard_entry(u.id, "b", 10**5_000),
    "a score that is not a number": lambda s, u: s.update_leaderboard_entry(u.id, "b", Decimal("sNaN")),
    "a price of too many digits": lambda s, _: s.insert_market_tick("AAPL", Decimal("1E-20000")),
    "prices of too many digits": lambda s, _: s.insert_market_ticks(
        [Tick("AAPL", datetime.now(UTC), Decimal("1E-20000"), 0, Decimal(1), Decimal(1))]
    ),
    "a time before the year 1 in UTC": lambda s, _: s.insert_market_tick(
        "AAPL", Decimal(1), timestamp=BEFORE_TIME
    ),
    "a range before the year 1 in UTC": lambda s, _: s.get_price_history(
        "AAPL", BEFORE_TIME, datetime.now(UTC), "1d"
    ),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_a_wrong_argument_is_refused(service: EnhancedDatabaseService, alice: User, name: str) -> None:
    """A call with a wrong argument raises `InvalidInput` and does not change the user."""
    with pytest.raises(InvalidInput):
        WRONG_CALLS[name](service, alice)
    assert service.get_user_by_id(alice.id) == alice


def test_the_error_for_a_large_argument_is_short(service: EnhancedDatabaseService) -> None:
    """The error for an argument of 1,000,000 characters has fewer than 200 characters."""
    with pytest.raises(InvalidInput) as caught:
        service.search_users("x" * 1_000_000)
    assert len(str(caught.value)) < 200
