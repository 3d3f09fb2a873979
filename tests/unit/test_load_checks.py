"""Checks of bulk loads: checking a chunk by columns gives the same result as checking each record."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal, Inexact, localcontext
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput
from core.records import LeaderboardEntry, Portfolio, Position, Quest, Tick, Trade, User, freeze
from core.service import record_checks
from core.service.record_checks import RecordChecks, check_chunk, check_one

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
ID = UUID(int=5)
CASH = Decimal("10000.00")
PLAIN: dict[str, tuple[Any, RecordChecks[Any]]] = {
    "user": (User(ID, "dave", None, None, None, freeze({}), NOW, NOW), record_checks.USERS),
    "tick": (Tick("AAPL", NOW, Decimal(10), 5, Decimal(9), Decimal(11)), record_checks.TICKS),
    "portfolio": (
        Portfolio(ID, ID, NOW.date(), CASH, CASH, CASH, CASH, CASH, NOW, NOW),
        record_checks.PORTFOLIOS,
    ),
    "position": (Position(ID, NOW.date(), "AAPL", CASH, CASH), record_checks.POSITIONS),
    "trade": (Trade(ID, ID, NOW.date(), "AAPL", "BUY", CASH, CASH, NOW), record_checks.TRADES),
    "entry": (
        LeaderboardEntry(ID, ID, "", NOW.date(), "c", CASH, 1, freeze({}), NOW),
        record_checks.LEADERBOARD_ENTRIES,
    ),
    "quest": (
        Quest(ID, ID, "T", "T", None, CASH, CASH, "ACTIVE", None, None, NOW, None),
        record_checks.QUESTS,
    ),
}
ODD: tuple[Any, ...] = (
    None, ID, str(ID), "", "c", "AAPL", "ACTIVE", "x" * 60, "\x00", "\ud800", 0, 1, -1, True, 1.5,
    np.int64(3), CASH, Decimal("0.125"), Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"),
    Decimal("1e40"), Decimal(1),
    NOW, NOW.replace(tzinfo=None), NOW.astimezone(timezone(timedelta(hours=2))), NOW + timedelta(days=9),
    NOW.date(), date.max, freeze({"a": 1}), {"a": 1}, {"a": Decimal(1)}, [], object(),
)  # fmt: skip  # one value per line would make a long list


def check_one_by_one(batch: list[Any], checks: RecordChecks[Any]) -> list[Any] | str:
    """Return the checked records, or the message about the first invalid record."""
    checked = []
    for place, record in enumerate(batch, 3):
        try:
            checked.append(check_one(record, checks, NOW))
        except InvalidInput as error:
            return f"row {place}: {error}"
    return checked


@st.composite
def build_batches(draw: Callable[..., Any]) -> tuple[list[Any], RecordChecks[Any]]:
    """Generate some records of one kind, each with up to two odd values, and their checks."""
    plain, checks = PLAIN[draw(st.sampled_from(sorted(PLAIN)))]
    names = [field.name for field in msgspec.structs.fields(type(plain))]
    some = st.dictionaries(st.sampled_from(names), st.sampled_from(ODD), max_size=2)
    return [msgspec.structs.replace(plain, **draw(some)) for _ in range(draw(st.integers(1, 3)))], checks


@given(build_batches())
def test_a_chunk_is_checked_like_single_records(case: tuple[list[Any], RecordChecks[Any]]) -> None:
    """Both checks return the same records, or the same message about the first invalid record."""
    batch, checks = case
    try:
        found: list[Any] | str = list(check_chunk(batch, checks, element="row", start=3, now=NOW))
    except InvalidInput as error:
        found = str(error)
    assert found == check_one_by_one(batch, checks)


@pytest.mark.parametrize("name", [name for name in PLAIN if name != "user"])
def test_a_valid_chunk_is_checked_by_columns_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The records of a valid chunk are not checked one by one, even in another decimal context."""
    plain, checks = PLAIN[name]
    monkeypatch.delattr(record_checks, "check_one")
    batch = [plain] * 3
    with localcontext() as context:
        context.prec = 3
        context.traps[Inexact] = True
        assert check_chunk(batch, checks, element="row", start=0, now=NOW) is batch
