"""Checking a batch of ticks gives the same results as checking each tick alone."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput
from core.records import Tick
from core.service import record_checks
from core.service.argument_checks import MAX_PRICE, MAX_VOLUME, find_end_of_tomorrow
from core.service.record_checks import TICKS, check_one, check_ticks, find_key

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
END = find_end_of_tomorrow(NOON)
PLAIN = Tick(
    symbol="AAPL", timestamp=NOON, price=Decimal(10), volume=5, bid=Decimal("9.5"), ask=Decimal("10.5")
)
BAR = Tick(
    symbol="AAPL", timestamp=NOON, price=Decimal(10), volume=5, change_24h=Decimal(-1),
    change_percent_24h=Decimal("-9.0909"), volatility=Decimal(20), open=Decimal(11), high=Decimal(12),
    low=Decimal(9),
)  # fmt: skip  # a compact list of the values of one bar
PRICES: tuple[Any, ...] = (
    Decimal("0.01"), Decimal(10), MAX_PRICE, MAX_PRICE + 1, Decimal(0), Decimal(-1), Decimal("NaN"),
    Decimal("sNaN"), Decimal("Infinity"), None, 10, 1.5, "10", True,
)  # fmt: skip  # a compact list of valid and invalid prices
VALUES: dict[str, tuple[Any, ...]] = {
    "symbol": ("AAPL", "BRK.B", "", "aapl", "A" * 11, None, 5, ["A"]),
    "timestamp": (
        NOON,
        NOON + timedelta(seconds=1),
        END - timedelta(microseconds=1),
        END,
        NOON.replace(tzinfo=None),
        NOON.astimezone(timezone(timedelta(hours=2))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-2))),
        "2026-03-02",
        None,
    ),
    "price": PRICES,
    "volume": (0, 5, MAX_VOLUME, MAX_VOLUME + 1, -1, True, 1.0, None, "5"),
    "bid": PRICES,
    "ask": PRICES,
    "change_24h": (None, Decimal(-1), Decimal("NaN"), "x", []),
    "volatility": (None, Decimal(1), Decimal(-1)),
    "change_percent_24h": (None, Decimal(-5), MAX_PRICE + 1, Decimal("Infinity"), 5, True),
    "open": (None, Decimal(3), Decimal(0), Decimal(12), Decimal("12.01"), Decimal("sNaN")),
    "high": (None, Decimal(10), Decimal(11), Decimal("NaN"), 12),
    "low": (None, Decimal(10), Decimal("10.5"), Decimal(9), "9"),
}


@st.composite
def ticks(draw: Callable[..., Any]) -> Tick:
    """Draw a valid quote or bar, with up to two fields replaced by valid or invalid values."""
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=2))
    plain: Tick = draw(st.sampled_from((PLAIN, BAR)))
    return msgspec.structs.replace(plain, **{name: draw(st.sampled_from(VALUES[name])) for name in names})


def check_one_by_one(batch: list[Tick]) -> dict[Any, Tick] | str:
    """Return the valid ticks by key, or the error about the first invalid tick."""
    found: dict[Any, Tick] = {}
    for place, tick in enumerate(batch):
        try:
            checked = check_one(tick, TICKS, NOON)
        except InvalidInput as error:
            return f"tick {place}: {error}"
        found[find_key(checked)] = checked
    return found


@given(st.lists(ticks(), max_size=5))
def test_a_batch_is_checked_like_single_ticks(batch: list[Tick]) -> None:
    """A batch and single checks return the same ticks, or the same error about the first invalid tick."""
    try:
        found: dict[Any, Tick] | str = {find_key(tick): tick for tick in check_ticks(batch, NOON)}
    except InvalidInput as error:
        found = str(error)
    assert found == check_one_by_one(batch)


@pytest.mark.parametrize(
    "plain", [PLAIN, BAR, msgspec.structs.replace(BAR, change_24h=None, volatility=None)]
)
def test_valid_ticks_are_checked_together(monkeypatch: pytest.MonkeyPatch, plain: Tick) -> None:
    """A batch of valid ticks is returned unchanged without a call of `check_one`."""
    monkeypatch.delattr(record_checks, "check_one")
    batch = [
        msgspec.structs.replace(plain, timestamp=NOON + timedelta(seconds=second)) for second in range(5)
    ]
    assert check_ticks(batch, NOON) == batch


def test_the_last_tick_of_a_time_wins() -> None:
    """Of two ticks with the same symbol and time, the last one is returned."""
    later = msgspec.structs.replace(PLAIN, price=Decimal(11))
    assert check_ticks([PLAIN, later], NOON) == [later]


@pytest.mark.parametrize("argument", [None, "AAPL", {"AAPL": 1}, [PLAIN, "AAPL"], 5])
def test_an_argument_of_another_type_is_refused(argument: Any) -> None:
    """`check_ticks` refuses an argument that is not a list of ticks."""
    with pytest.raises(InvalidInput, match="tick"):
        check_ticks(argument, NOON)
