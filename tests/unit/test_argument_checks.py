"""What the service accepts; everything else is refused before any SQL."""

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
    """Only a UUID or its text names a row."""
    with pytest.raises(InvalidInput, match="user_id is"):
        argument_checks.check_id(value, "user_id")


def test_takes_an_id_as_text() -> None:
    """An id that came through JSON or a URL is accepted."""
    assert argument_checks.check_id(str(ID), "user_id") == argument_checks.check_id(ID, "user_id") == ID


@pytest.mark.parametrize("value", [0, -1, 1_001, 100_000, True, 1.0, "50", None])
def test_refuses_a_limit(value: Any) -> None:
    """A limit is a whole number from 1 to 1000."""
    with pytest.raises(InvalidInput, match=r"limit is .* from 1 to 1000"):
        argument_checks.check_limit(value)


@pytest.mark.parametrize(
    "value",
    ["'; DROP", "", "aapl", "AAPL ", "AAPL\n", "A" * 33, "-A", "^", "..A", "A,B", 'A"', "A%", "Ä", None, 5],
)
def test_refuses_a_symbol(value: Any) -> None:
    """Symbols are capitals, digits and some marks, and begin with one mark at most."""
    with pytest.raises(InvalidInput, match="symbol is"):
        argument_checks.check_symbol(value)


@pytest.mark.parametrize(
    "value",
    [
        "A", "AAPL", "7203.T", "0700.HK", "600519.SH", "BRK_A", "BRK/B", "^GSPC", "CAD=X", "BTC/USDT",
        "NYSE:LMT", "M&M", ".DJI", "$SPX", "ES1!", "@ES#", "BTC-USD", "A" * 32,
    ],
)  # fmt: skip  # one symbol a line would hide that they are a list
def test_takes_symbols_as_people_write_them(value: str) -> None:
    """Numbers, exchanges, classes of shares, indices, pairs and continuous futures."""
    assert argument_checks.check_symbol(value) == value


@pytest.mark.parametrize("value", ["usd", "US", "DOLLAR", "US$", "", None])
def test_refuses_a_currency(value: Any) -> None:
    """A currency is a code of capitals."""
    with pytest.raises(InvalidInput, match="currency is"):
        argument_checks.check_currency(value)


@pytest.mark.parametrize("value", ["", "c" * 51, "daily returns", "a:b", "a*", None, "x\n"])
def test_refuses_a_category(value: Any) -> None:
    """A category is up to 50 characters that need no quoting in a key."""
    with pytest.raises(InvalidInput, match="category is"):
        argument_checks.check_category(value)


@pytest.mark.parametrize("value", ["", " alice", "alice ", "a" * 51, "a\nb", "a\x00", None, 5])
def test_refuses_a_username(value: Any) -> None:
    """A username has 1 to 50 printable characters and no outer space."""
    with pytest.raises(InvalidInput, match="username is"):
        argument_checks.check_username(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "NaN", "x", None, True, [], Decimal("NaN")])
def test_refuses_what_is_no_number(value: Any) -> None:
    """NaN, infinities and other types are not amounts."""
    with pytest.raises(InvalidInput, match="total_value is"):
        argument_checks.check_money(value, "total_value")


@pytest.mark.parametrize("value", [Decimal("-0.01"), -1, Decimal(10000000000000)])
def test_refuses_money_out_of_range(value: Any) -> None:
    """What the column cannot hold is refused here, not by the server."""
    with pytest.raises(InvalidInput, match="total_value"):
        argument_checks.check_money(value, "total_value")


@pytest.mark.parametrize("value", [0, -1, Decimal("-0.5"), math.nan, Decimal("1e13")])
def test_refuses_a_price(value: Any) -> None:
    """A price is above zero."""
    with pytest.raises(InvalidInput, match="price is"):
        argument_checks.check_price(value, "price")


@given(st.integers(-(10**14), 10**14))
def test_money_keeps_whole_cents(cents: int) -> None:
    """An amount in cents comes back as it was."""
    amount = Decimal(cents).scaleb(-2)
    bounds = {"minimum": argument_checks.MIN_MONEY, "maximum": argument_checks.MAX_MONEY}
    assert argument_checks.check_decimal(amount, "amount", **bounds, quantum=argument_checks.CENT) == amount


def test_a_float_stands_for_what_it_prints() -> None:
    """0.1 becomes a tenth, not the binary fraction next to it."""
    assert argument_checks.check_price(0.1, "price") == Decimal("0.1")


@pytest.mark.parametrize("value", ["2026-03-02", datetime(2026, 3, 2, tzinfo=UTC), 20260302])
def test_refuses_a_session_date(value: Any) -> None:
    """A session is a date; a time of day in it would be silently lost."""
    with pytest.raises(InvalidInput, match="session_date is"):
        argument_checks.check_session_date(value, NOW)


def test_today_is_the_utc_date() -> None:
    """Half an hour before midnight in UTC, it is still today, although other zones have the next date."""
    elsewhere = NOW.astimezone(timezone(timedelta(hours=9)))
    assert argument_checks.check_session_date(None, elsewhere) == date(2026, 3, 2)


@pytest.mark.parametrize("value", ["", "1", "d", "0d", "1y", "1 d", timedelta(0), timedelta(days=400), 5])
def test_refuses_a_bucket(value: Any) -> None:
    """A bucket has a unit and a width above zero."""
    with pytest.raises(InvalidInput, match="bucket is"):
        argument_checks.check_bucket(value)


@pytest.mark.parametrize(
    ("text", "width"),
    [("30s", timedelta(seconds=30)), ("5m", timedelta(minutes=5)), ("1w", timedelta(weeks=1))],
)
def test_reads_a_bucket(text: str, width: timedelta) -> None:
    """Buckets have the usual short names."""
    assert argument_checks.check_bucket(text) == argument_checks.check_bucket(width) == width


@pytest.mark.parametrize("value", [[], "x", {1: 2}, {"a": object()}, {"a": math.nan}, {"a": "\x00"}])
def test_refuses_a_document(value: Any) -> None:
    """Preferences and metadata are JSON objects that jsonb can hold."""
    with pytest.raises(InvalidInput, match="metadata is"):
        argument_checks.check_document(value, "metadata")


def test_refuses_a_time_without_a_zone() -> None:
    """A naive time has no instant."""
    with pytest.raises(InvalidInput, match="time zone"):
        argument_checks.check_time(datetime(2026, 3, 2), "start")  # naive on purpose


def test_errors_are_value_errors() -> None:
    """Callers that know nothing of this package can catch ValueError."""
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
def test_a_message_is_short_however_large_the_value(check: str, value: Any) -> None:
    """The message fits into a log line; a number with too many digits is described by its type."""
    with pytest.raises(InvalidInput) as caught:
        CHECKS[check](value)
    assert len(str(caught.value)) < 300
