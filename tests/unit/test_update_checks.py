"""Checking a batch of portfolio updates gives the same results as checking each update alone."""

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
)  # fmt: skip  # a compact list of valid and invalid amounts
VALUES: dict[str, tuple[Any, ...]] = {
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
    """Draw a valid update, with up to two fields replaced by valid or invalid values."""
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=2))
    return msgspec.structs.replace(PLAIN, **{name: draw(st.sampled_from(VALUES[name])) for name in names})


def check_one_by_one(batch: list[PortfolioUpdate]) -> list[PortfolioUpdate] | str:
    """Return the valid updates in key order, or the error about the first invalid update."""
    found: dict[tuple[str, date], PortfolioUpdate] = {}
    for place, update in enumerate(batch):
        try:
            checked = check_one(update, PORTFOLIO_UPDATES, NOON)
        except InvalidInput as error:
            return f"update {place}: {error}"
        found[str(checked.user_id), checked.session_date] = checked
    return [found[key] for key in sorted(found)]


@given(st.lists(portfolio_updates(), max_size=5))
def test_a_batch_is_checked_like_single_updates(batch: list[PortfolioUpdate]) -> None:
    """A batch and single checks return the same updates, or the same error about the first invalid update."""
    try:
        found: list[PortfolioUpdate] | str = check_updates(batch, NOON)
    except InvalidInput as error:
        found = str(error)
    assert found == check_one_by_one(batch)


def test_valid_updates_are_checked_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a batch of valid updates, the last one of each user is returned without a call of `check_one`."""
    monkeypatch.delattr(record_checks, "check_one")
    for cash in (None, Decimal(5)):
        batch = [
            msgspec.structs.replace(PLAIN, user_id=user, current_cash=cash, total_value=total)
            for user in (ALICE, BOB)
            for total in (Decimal(7), MAX_MONEY)
        ]
        assert check_updates(batch, NOON) == [batch[1], batch[3]]


@pytest.mark.parametrize("argument", [None, "AAPL", {"AAPL": 1}, [PLAIN, "AAPL"], 5])
def test_an_argument_of_another_type_is_refused(argument: Any) -> None:
    """`check_updates` refuses an argument that is not a list of updates."""
    with pytest.raises(InvalidInput, match="update"):
        check_updates(argument, NOON)
