"""The checks of the service's arguments, which run before any SQL."""

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput
from core.service import argument_checks

NOW = datetime(2026, 3, 2, 23, 30, tzinfo=UTC)
ID = UUID("018f0000-0000-7000-8000-000000000001")


@pytest.mark.parametrize("value", ["", "alice", "018f", 7, None, b"x", "{" + str(ID) + "x"])
def test_refuses_a_malformed_id(value: Any) -> None:
    """An id that is neither a UUID nor the text of one raises `InvalidInput`."""
    with pytest.raises(InvalidInput, match="user_id is"):
        argument_checks.check_id(value, "user_id")


def test_accepts_an_id_as_text() -> None:
    """The text of a UUID is accepted as an id."""
    assert argument_checks.check_id(str(ID), "user_id") == argument_checks.check_id(ID, "user_id") == ID


@pytest.mark.parametrize("value", [0, -1, 1_001, 100_000, True, 1.0, "50", None])
def test_refuses_an_invalid_limit(value: Any) -> None:
    """A limit that is not an integer from 1 to 1000 raises `InvalidInput`."""
    with pytest.raises(InvalidInput, match=r"limit is .* from 1 to 1000"):
        argument_checks.check_limit(value)


@pytest.mark.parametrize(
    "value",
    ["'; DROP", "", "aapl", "AAPL ", "AAPL\n", "A" * 33, "-A", "^", "..A", "A,B", 'A"', "A%", "Ä", None, 5],
)
def test_refuses_an_invalid_symbol(value: Any) -> None:
    """A symbol with other characters than capitals, digits and some punctuation raises `InvalidInput`."""
    with pytest.raises(InvalidInput, match="symbol is"):
        argument_checks.check_symbol(value)


@pytest.mark.parametrize(
    "value",
    [
        "A", "AAPL", "7203.T", "0700.HK", "600519.SH", "BRK_A", "BRK/B", "^GSPC", "CAD=X", "BTC/USDT",
        "NYSE:LMT", "M&M", ".DJI", "$SPX", "ES1!", "@ES#", "BTC-USD", "A" * 32,
    ],
)  # fmt: skip  # keep several symbols on a line
def test_accepts_common_symbols(value: str) -> None:
    """Symbols with exchange suffixes, share classes, indices, currency pairs and futures are accepted."""
    assert argument_checks.check_symbol(value) == value


@pytest.mark.parametrize("value", ["usd", "US", "DOLLAR", "US$", "", None])
def test_refuses_an_invalid_currency(value: Any) -> None:
    """A currency that is not a code of 3 to 5 capitals raises `InvalidInput`."""
    with pytest.raises(InvalidInput, match="currency is"):
        argument_checks.check_currency(value)


@pytest.mark.parametrize("value", ["", "c" * 51, "daily returns", "a:b", "a*", None, "x\n"])
def test_refuses_an_invalid_category(value: Any) -> None:
    """A category that is too long, or has characters with a meaning in cache keys, raises `InvalidInput`."""
    with pytest.raises(InvalidInput, match="category is"):
        argument_checks.check_category(value)


@pytest.mark.parametrize("value", ["", " alice", "alice ", "a" * 51, "a\nb", "a\x00", None, 5])
def test_refuses_an_invalid_username(value: Any) -> None:
    """A username without 1 to 50 printable characters, or with outer spaces, raises `InvalidInput`."""
    with pytest.raises(InvalidInput, match="username is"):
        argument_checks.check_username(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "NaN", "x", None, True, [], Decimal("NaN")])
def test_refuses_an_amount_that_is_no_number(value: Any) -> None:
    """NaN, an infinity or a value of another type is refused as an amount of money."""
    with pytest.raises(InvalidInput, match="total_value is"):
        argument_checks.check_money(value, "total_value")


@pytest.mark.parametrize("value", [Decimal("-0.01"), -1, Decimal(10000000000000)])
def test_refuses_money_out_of_range(value: Any) -> None:
    """An amount that is negative or too large for the column raises `InvalidInput`."""
    with pytest.raises(InvalidInput, match="total_value"):
        argument_checks.check_money(value, "total_value")


@pytest.mark.parametrize("value", [0, -1, Decimal("-0.5"), math.nan, Decimal("1e13")])
def test_refuses_an_invalid_price(value: Any) -> None:
    """A price that is not above zero, or is too large for the column, raises `InvalidInput`."""
    with pytest.raises(InvalidInput, match="price is"):
        argument_checks.check_price(value, "price")


@given(st.integers(-(10**14), 10**14))
def test_money_keeps_whole_cents(cents: int) -> None:
    """An amount with two decimals is returned unchanged."""
    amount = Decimal(cents).scaleb(-2)
    bounds = {"minimum": argument_checks.MIN_MONEY, "maximum": argument_checks.MAX_MONEY}
    assert argument_checks.check_decimal(amount, "amount", **bounds, quantum=argument_checks.CENT) == amount


def test_a_float_is_converted_by_its_text() -> None:
    """A float is converted by its decimal text: 0.1 becomes Decimal('0.1')."""
    assert argument_checks.check_price(0.1, "price") == Decimal("0.1")


@pytest.mark.parametrize("value", ["2026-03-02", datetime(2026, 3, 2, tzinfo=UTC), 20260302])
def test_refuses_an_invalid_session_date(value: Any) -> None:
    """A session date that is a text, a number or a `datetime` raises `InvalidInput`."""
    with pytest.raises(InvalidInput, match="session_date is"):
        argument_checks.check_session_date(value, NOW)


def test_the_default_session_date_is_the_utc_date() -> None:
    """Without a session date the date in UTC is used, although the clock's time zone has the next date."""
    elsewhere = NOW.astimezone(timezone(timedelta(hours=9)))
    assert argument_checks.check_session_date(None, elsewhere) == date(2026, 3, 2)


@pytest.mark.parametrize("value", ["", "1", "d", "0d", "1y", "1 d", timedelta(0), timedelta(days=400), 5])
def test_refuses_an_invalid_bucket(value: Any) -> None:
    """A bucket without number or unit, or with a width of 0 or over 366 days, raises `InvalidInput`."""
    with pytest.raises(InvalidInput, match="bucket is"):
        argument_checks.check_bucket(value)


@pytest.mark.parametrize(
    ("text", "width"),
    [("30s", timedelta(seconds=30)), ("5m", timedelta(minutes=5)), ("1w", timedelta(weeks=1))],
)
def test_reads_a_bucket(text: str, width: timedelta) -> None:
    """A bucket can be a text such as `5m` or a `timedelta`."""
    assert argument_checks.check_bucket(text) == argument_checks.check_bucket(width) == width


@pytest.mark.parametrize("value", [[], "x", {1: 2}, {"a": object()}, {"a": math.nan}, {"a": "\x00"}])
def test_refuses_an_invalid_document(value: Any) -> None:
    """A document that jsonb cannot store as a JSON object raises `InvalidInput`."""
    with pytest.raises(InvalidInput, match="metadata is"):
        argument_checks.check_document(value, "metadata")


def test_refuses_a_time_without_a_zone() -> None:
    """A `datetime` without a time zone raises `InvalidInput`."""
    with pytest.raises(InvalidInput, match="time zone"):
        argument_checks.check_time(datetime(2026, 3, 2), "start")  # naive on purpose


def test_invalid_input_is_a_value_error() -> None:
    """`InvalidInput` is a `ValueError`."""
    with pytest.raises(ValueError, match="limit"):
        argument_checks.check_limit(0)


HUGE = ["x" * 1_000_000, 10**5_000, -(10**5_000), b"x" * 1_000_000, [0] * 1_000_000, Decimal("9" * 100_000)]
CHECKS: dict[str, Callable[[Any], object]] = {
    "id": lambda value: argument_checks.check_id(value, "user_id"),
    "limit": argument_checks.check_limit,
    "text": lambda value: argument_checks.check_text(value, "title", max_length=200),
    "username": argument_checks.check_username,
    "email": argument_checks.check_email,
    "document": lambda value: argument_checks.check_document(
        {"a": value} if value == HUGE[1] else value, "metadata"
    ),
    "category": argument_checks.check_category,
    "symbol": argument_checks.check_symbol,
    "currency": argument_checks.check_currency,
    "money": lambda value: argument_checks.check_money(value, "total_value"),
    "price": lambda value: argument_checks.check_price(value, "price"),
    "session date": lambda value: argument_checks.check_session_date(value, NOW),
    "time": lambda value: argument_checks.check_time(value, "start"),
    "bucket": argument_checks.check_bucket,
    "sentiment": argument_checks.check_sentiment,
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("value", HUGE, ids=lambda value: type(value).__name__)
def test_the_error_for_a_large_argument_is_short(check: str, value: Any) -> None:
    """The error for an argument of any size has fewer than 300 characters."""
    with pytest.raises(InvalidInput) as caught:
        CHECKS[check](value)
    assert len(str(caught.value)) < 300
