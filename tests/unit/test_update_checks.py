"""Checks of portfolio updates: many at once are judged as each alone is."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput
from core.records import PortfolioUpdate
from core.service import record_checks
from core.service.argument_checks import MAX_MONEY, MIN_MONEY
from core.service.record_checks import PORTFOLIO_UPDATES, check_one, check_updates

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
DAY = NOON.date()
ALICE, BOB = (UUID(int=(7 << 76) + (8 << 60) + n) for n in (1, 2))
PLAIN = PortfolioUpdate(ALICE, DAY, Decimal("10000.50"), Decimal(-3))
AMOUNTS: tuple[Any, ...] = (
    Decimal("0.01"), Decimal("-0"), Decimal("1E+5"), Decimal("0.005"), Decimal("0.015"), Decimal(-1),
    MIN_MONEY, MAX_MONEY, MAX_MONEY + 1, Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"),
    None, 10, 1.5, "10", True, [],
)  # fmt: skip  # one value a line would hide that each is another trap
ODD: dict[str, tuple[Any, ...]] = {
    "user_id": (ALICE, BOB, str(BOB), BOB.hex, "bob", None, 5, [ALICE]),
    "session_date": (
        DAY,
        DAY + timedelta(days=1),
        DAY + timedelta(days=2),
        date.min,
        NOON,
        "2026-03-02",
        None,
    ),
    "total_value": AMOUNTS,
    "day_change": AMOUNTS,
    "current_cash": AMOUNTS,
}


@st.composite
def portfolio_updates(draw: Callable[..., Any]) -> PortfolioUpdate:
    """A plain update with up to two values that may be odd."""
    names = draw(st.lists(st.sampled_from(sorted(ODD)), max_size=2))
    return msgspec.structs.replace(PLAIN, **{name: draw(st.sampled_from(ODD[name])) for name in names})


def judge_one_by_one(batch: list[PortfolioUpdate]) -> list[PortfolioUpdate] | str:
    """Return what a batch comes to, or the words about its first wrong update."""
    found: dict[tuple[str, date], PortfolioUpdate] = {}
    for place, update in enumerate(batch):
        try:
            checked = check_one(update, PORTFOLIO_UPDATES, NOON)
        except InvalidInput as error:
            return f"update {place}: {error}"
        found[str(checked.user_id), checked.session_date] = checked
    return [found[key] for key in sorted(found)]


@given(st.lists(portfolio_updates(), max_size=5))
def test_many_are_judged_as_each_alone(batch: list[PortfolioUpdate]) -> None:
    """Both ways return the same values, and name the first wrong update with the same message."""
    try:
        found: list[PortfolioUpdate] | str = check_updates(batch, NOON)
    except InvalidInput as error:
        found = str(error)
    assert found == judge_one_by_one(batch)


def test_plain_updates_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is checked by itself, with cash or without."""
    monkeypatch.delattr(record_checks, "check_one")
    for cash in (None, Decimal(5)):
        batch = [
            msgspec.structs.replace(PLAIN, user_id=user, current_cash=cash, total_value=total)
            for user in (ALICE, BOB)
            for total in (Decimal(7), MAX_MONEY)
        ]
        assert check_updates(batch, NOON) == [batch[1], batch[3]]


@pytest.mark.parametrize("given_", [None, "AAPL", {"AAPL": 1}, [PLAIN, "AAPL"], 5])
def test_what_is_no_list_of_updates_is_named(given_: Any) -> None:
    """The message says what was given and what is wanted."""
    with pytest.raises(InvalidInput, match="update"):
        check_updates(given_, NOON)
