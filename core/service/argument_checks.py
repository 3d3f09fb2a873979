"""Checks the arguments of the service's calls before a statement runs.

Owns the limits and the error messages. A message names the argument, its value and the allowed values. A
`check_` function returns the value as a plain Python type, or raises `InvalidInput`.
"""

import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Any, TypeVar
from uuid import UUID

from core.errors import InvalidInput
from core.models import CATEGORY_PATTERN, CURRENCY_PATTERN, SYMBOL_PATTERN
from core.records import SENTIMENTS
from core.service.plain_values import (
    NotJsonError,
    is_storable,
    to_bool,
    to_date,
    to_datetime,
    to_decimal,
    to_document,
    to_int,
    to_text,
    to_timedelta,
    to_uuid,
)

T = TypeVar("T")
U = TypeVar("U")

MAX_LIMIT = 1_000
MAX_OFFSET = 10_000_000
MAX_RADIUS = 100
MAX_SYMBOLS = 1_000
MAX_MONEY = Decimal("9999999999999.99")  # numeric(15, 2)
MAX_PRICE = Decimal(1000000000000)
MAX_IMPACT = Decimal("999.99")  # numeric(5, 2)
MAX_VOLUME = 2**63 - 1
CENT = Decimal("0.01")
MIN_PRICE = Decimal("1E-16000")  # PostgreSQL stores at most 16,383 digits after the point
MAX_NAME = 200
MAX_WAIT_SECONDS = Decimal(3600)  # a larger argument is likely to be in milliseconds
MAX_DESCRIPTION = 10_000
# Not `-MAX_MONEY`: the minus operator rounds to the precision of the caller's decimal context.
MIN_MONEY, MIN_CHANGE, MIN_IMPACT = map(Decimal.copy_negate, (MAX_MONEY, MAX_PRICE, MAX_IMPACT))
# Arithmetic uses this context: the caller's context may have any precision, and may raise an error for an
# inexact result.
ARITHMETIC = Context(prec=40, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation])

_SYMBOL = re.compile(SYMBOL_PATTERN + r"\Z")
_CURRENCY = re.compile(CURRENCY_PATTERN + r"\Z")
_CATEGORY = re.compile(CATEGORY_PATTERN + r"\Z")
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,255}\Z")
_BUCKET = re.compile(r"([1-9][0-9]{0,3})([smhdw])\Z")
_BUCKET_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
MAX_SHOWN = 160


def show(value: Any) -> str:
    """Return the repr of a value for a message, cut to a length that fits a log line."""
    try:
        text = _SHORT.repr(value)
        return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
    except ValueError:
        # repr of an int with more than 4,300 digits raises ValueError
        return f"a very large {type(value).__name__}"


def check_id(value: Any, name: str) -> UUID:
    """Return `value` as a UUID. Accepts a UUID object of any library, or a UUID as a string."""
    found = to_uuid(value)
    if found is None:
        raise InvalidInput(f"{name} is {show(value)}; give a UUID")
    return found


def check_ids(values: Any, name: str, *, max_count: int | None = None) -> list[UUID]:
    """Return `values` as a list of UUIDs. Accepts a list, or a mapping whose keys are ids."""
    listed = values.keys() if isinstance(values, Mapping) else _check_list(values, name, "a list of UUIDs")
    ids = [check_id(value, name) for value in listed]
    if max_count is not None and len(ids) > max_count:
        raise InvalidInput(f"{name} has {len(ids)} ids; give at most {max_count}")
    return ids


def check_int(value: Any, name: str, *, minimum: int, maximum: int) -> int:
    """Return `value` as an int from `minimum` to `maximum`."""
    number = to_int(value)
    if number is None or not minimum <= number <= maximum:
        raise InvalidInput(f"{name} is {show(value)}; give a whole number from {minimum} to {maximum}")
    return number


def check_limit(value: Any, name: str = "limit", *, maximum: int = MAX_LIMIT) -> int:
    """Return `value` as a number of rows from 1 to `maximum`."""
    return check_int(value, name, minimum=1, maximum=maximum)


def check_bool(value: Any, name: str) -> bool:
    """Return `value` as a bool. Refuses values other than True and False, also 0 and 1."""
    flag = to_bool(value)
    if flag is None:
        raise InvalidInput(f"{name} is {show(value)}; give True or False")
    return flag


def check_callable(value: Any, name: str) -> None:
    """Raise `InvalidInput` if the value cannot be called; None is accepted."""
    if value is not None and not callable(value):
        raise InvalidInput(f"{name} is {show(value)}; give a function, or None")


def check_each(values: Any, name: str, check: Callable[[Any], T]) -> list[T]:
    """Return `check(value)` for each value of a list."""
    return [check(value) for value in _check_list(values, name, "a list")]


def _check_list(values: Any, name: str, wanted: str) -> Iterable[Any]:
    """Return `values`, which must be iterable; a string or a mapping is refused."""
    if isinstance(values, str | bytes | bytearray | Mapping) or not isinstance(values, Iterable):
        raise InvalidInput(f"{name} is {show(values)}; give {wanted}")
    return values


def list_accepted(values: Iterable[T], check: Callable[[T], object]) -> list[T]:
    """Return the stored values that pass `check`. Another program may have stored values that fail it."""
    accepted = []
    for value in values:
        try:
            check(value)
        except InvalidInput:
            continue
        accepted.append(value)
    return accepted


def check_records(values: Any, kind: type[T], name: str, element: str) -> Iterator[T]:
    """Return an iterator over `values`, which must all be records of the type `kind`.

    It raises `InvalidInput` at the first other value. The message has `element`, the word for one record, and
    the index of the value, for example `tick 3`.
    """
    return _check_kinds(_check_list(values, name, f"a list of {kind.__name__}"), kind, element)


def _check_kinds(values: Iterable[Any], kind: type[T], element: str) -> Iterator[T]:
    for place, value in enumerate(values):
        if not isinstance(value, kind):
            raise InvalidInput(f"{element} {place} is {show(value)}; give a {kind.__name__}")
        yield value


def check_in_order(records: Iterable[T], element: str, check: Callable[[T], U], *, start: int = 0) -> list[U]:
    """Return `check(record)` for each record; an error names the record, for example `tick 3`."""
    checked = []
    for place, record in enumerate(records, start):
        try:
            checked.append(check(record))
        except InvalidInput as error:
            raise InvalidInput(f"{element} {place}: {error}") from error
    return checked


def check_record(value: Any, kind: type[T], name: str) -> T:
    """Return `value`, which must be a record of the type `kind`."""
    if not isinstance(value, kind):
        raise InvalidInput(f"{name} is {show(value)}; give a {kind.__name__}")
    return value


def check_text(value: Any, name: str, *, max_length: int, required: bool = True) -> Any:
    """Return `value` as a str of at least one character. None is accepted if `required` is false."""
    if value is None and not required:
        return None
    text = to_text(value)
    if text is None or not 1 <= len(text) <= max_length or not is_storable(text):
        raise InvalidInput(f"{name} is {show(value)}; give a text of 1 to {max_length} characters")
    return text


def check_prefix(value: Any, *, max_length: int) -> str:
    """Return `value` as the prefix of a name. An empty string is accepted: it matches every name."""
    return "" if to_text(value) == "" else str(check_text(value, "prefix", max_length=max_length))


def check_choice(value: Any, name: str, choices: Iterable[str]) -> str:
    """Return `value` as a str, which must be one of `choices`."""
    text = to_text(value)
    if text is None or text not in choices:
        raise InvalidInput(f"{name} is {show(value)}; give one of {', '.join(choices)}")
    return text


def check_username(value: Any) -> str:
    """Return a username: 1 to 50 printable characters, without spaces at its ends."""
    text = to_text(value)
    if text is None or not 1 <= len(text) <= 50 or not text.isprintable() or text != text.strip():
        raise InvalidInput(
            f"username is {show(value)}; give 1 to 50 printable characters without outer spaces"
        )
    return text


def check_email(value: Any) -> str:
    """Return an e-mail address. The error does not show the address: a mistyped one is personal data too."""
    text = to_text(value)
    if text is None:
        raise InvalidInput(f"email is {show(value)}; give an address such as alice@example.com")
    if not _EMAIL.match(text) or not text.isprintable():
        raise InvalidInput(
            f"email is a text of {len(text)} characters that is no address; give one such as"
            " alice@example.com"
        )
    return text


def check_document(value: Any, name: str) -> dict[str, Any]:
    """Return a JSON object of plain Python values; None becomes the empty object."""
    if value is None:
        return {}
    wanted = "give a mapping of texts to JSON values, numbers of at most 64 bits"
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{name} is {show(value)}; {wanted}")
    try:
        return to_document(value)
    except RecursionError:
        raise InvalidInput(f"{name} is {show(value)}, nested too deep; {wanted}") from None
    except NotJsonError as found:
        place = "".join(reversed(found.path))[: _SHORT.maxstring]
        raise InvalidInput(
            f"{name} is {show(value)}, where {place} is {show(found.value)}; {wanted}"
        ) from None


def check_category(value: Any, name: str = "category") -> str:
    """Return a category of leaderboards: 1 to 50 letters, digits, `_`, `.` or `-`."""
    text = to_text(value)
    if text is None or not _CATEGORY.match(text):
        raise InvalidInput(f"{name} is {show(value)}; give 1 to 50 letters, digits, '_', '.' or '-'")
    return text


def check_leaderboard(category: Any, session_date: Any, now: datetime) -> tuple[str, date]:
    """Return the category and the session (None: today's) of a leaderboard to read."""
    return check_category(category), check_session_date(session_date, now)


def check_symbol(value: Any) -> str:
    """Return a ticker symbol, such as AAPL or ^GSPC."""
    text = to_text(value)
    if text is None or not _SYMBOL.match(text):
        raise InvalidInput(
            f"symbol is {show(value)}; give 1 to 32 of A-Z 0-9 . ^ = / : & _ @ # $ ! + -,"
            " the first of them a capital or digit, which one of $ ^ . @ # / may precede"
        )
    return text


def check_currency(value: Any) -> str:
    """Return a currency code, such as USD."""
    text = to_text(value)
    if text is None or not _CURRENCY.match(text):
        raise InvalidInput(f"currency is {show(value)}; give a code of 3 to 5 capitals, such as USD")
    return text


def check_symbols(values: Any, name: str = "symbols") -> list[str]:
    """Return the symbols without repetitions, in the given order."""
    symbols = list(dict.fromkeys(check_each(values, name, check_symbol)))
    if len(symbols) > MAX_SYMBOLS:
        raise InvalidInput(f"{name} has {len(symbols)} symbols; give at most {MAX_SYMBOLS}")
    return symbols


def check_decimal(
    value: Any, name: str, *, minimum: Decimal, maximum: Decimal, quantum: Decimal | None = None
) -> Decimal:
    """Return `value` as a Decimal. With a `quantum`, it is rounded half-even to that exponent."""
    # skip the call for a Decimal: a batch has thousands
    number = value if type(value) is Decimal else to_decimal(value)
    if number is None:
        raise InvalidInput(f"{name} is {show(value)}, which is no number; give a Decimal, int, float or text")
    if not number.is_finite() or not minimum <= number <= maximum:
        raise InvalidInput(f"{name} is {show(value)}; give a number from {minimum} to {maximum}")
    return number if quantum is None else number.quantize(quantum, None, ARITHMETIC)


def check_money(value: Any, name: str) -> Decimal:
    """Return `value` as an amount from 0 to MAX_MONEY, rounded half-even to cents."""
    return check_decimal(value, name, minimum=Decimal(0), maximum=MAX_MONEY, quantum=CENT)


def check_price(value: Any, name: str) -> Decimal:
    """Return `value` as a price above 0 with all its digits."""
    if type(value) is Decimal and value.is_finite() and MIN_PRICE <= value <= MAX_PRICE:
        # fast path for the usual case: each tick of a batch has three prices
        return value
    number = check_decimal(value, name, minimum=Decimal(0), maximum=MAX_PRICE)
    if number == 0:
        raise InvalidInput(f"{name} is {show(value)}; give a number above 0 up to {MAX_PRICE}")
    if number < MIN_PRICE:
        raise InvalidInput(f"{name} is {show(value)}; give a number of at most 16,000 digits")
    return number


def check_day(value: Any, name: str) -> date:
    """Return `value` as a date. Every date is accepted, also one after tomorrow."""
    day = to_date(value)
    if day is None:
        hint = ", such as the .date() of this time" if isinstance(value, datetime) else ""
        raise InvalidInput(f"{name} is {show(value)}; give a datetime.date{hint}")
    return day


def check_session_date(value: Any, now: datetime) -> date:
    """Return the UTC date of a session to read (None: today's)."""
    return now.astimezone(UTC).date() if value is None else check_day(value, "session_date")


def check_session_to_write(value: Any, now: datetime) -> date:
    """Return the UTC date of a session to write (None: today's), up to tomorrow.

    Any past date is accepted, because replays write old sessions. A date after tomorrow is refused: a session
    of the far future would come first in every list of sessions for years.
    """
    day = check_session_date(value, now)
    if day > find_last_session(now):
        raise InvalidInput(
            f"session_date is {day}, which is after tomorrow; give a session up to {find_last_session(now)}"
        )
    return day


def check_before(value: Any, now: datetime) -> date:
    """Return the date before which a list of sessions ends. None becomes tomorrow.

    With None the list begins with today's session. Players can already prepare tomorrow's session: it is
    listed only if `value` is a date after tomorrow. Sessions after tomorrow are never listed; an older
    release could store them.
    """
    tomorrow = find_last_session(now)
    return tomorrow if value is None else min(check_day(value, "before"), tomorrow + timedelta(days=1))


def find_last_session(now: datetime) -> date:
    """Return the last session that can be written: tomorrow's (UTC).

    Tomorrow's is accepted because the clocks of two machines differ, and because players prepare sessions.
    """
    return now.astimezone(UTC).date() + timedelta(days=1)


def find_end_of_tomorrow(now: datetime) -> datetime:
    """Return the end of tomorrow (UTC). Only earlier times can be written."""
    return datetime.combine(find_last_session(now), time(0), UTC) + timedelta(days=1)


def check_time(value: Any, name: str) -> datetime:
    """Return `value`, a datetime with a time zone, as a time in UTC."""
    found = to_datetime(value)
    if found is None and isinstance(value, datetime) and value == value:  # noqa: PLR0124  # false for NaT
        raise InvalidInput(f"{name} is {show(value)}, finer than a microsecond; round it")
    if found is None or found.utcoffset() is None:
        raise InvalidInput(f"{name} is {show(value)}; give a datetime with a time zone")
    if found.tzinfo is UTC:
        return found
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise InvalidInput(f"{name} is {show(value)}; give a time that exists in UTC") from None


def check_time_to_write(value: Any, name: str, end: datetime) -> datetime:
    """Return `value`, a datetime with a time zone that is before `end`, as a time in UTC."""
    found = check_time(value, name)
    if found >= end:
        raise InvalidInput(f"{name} is {found}, which is after tomorrow; give a time before {end}")
    return found


def check_duration(value: Any, name: str, *, minimum: timedelta, maximum: timedelta) -> timedelta:
    """Return `value` as a timedelta from `minimum` to `maximum`."""
    width = to_timedelta(value)
    if width is None or not minimum <= width <= maximum:
        raise InvalidInput(f"{name} is {show(value)}; give a timedelta from {minimum} to {maximum}")
    return width


def check_seconds(value: Any, name: str) -> float:
    """Return `value` as a number of seconds from 0 to MAX_WAIT_SECONDS."""
    return float(check_decimal(value, name, minimum=Decimal(0), maximum=MAX_WAIT_SECONDS))


def check_bucket(value: Any, name: str = "bucket") -> timedelta:
    """Return a length of time, given as a timedelta or as a string such as 5m, 4h, 1d or 1w."""
    width = to_timedelta(value)
    text = to_text(value)
    if text is not None and (match := _BUCKET.match(text)):
        width = timedelta(**{_BUCKET_UNITS[match[2]]: int(match[1])})
    if width is None or not timedelta(seconds=1) <= width <= timedelta(days=366):
        raise InvalidInput(
            f"{name} is {show(value)}; give 1 s to 366 days, such as '5m', '1d' or a timedelta"
        )
    return width


def check_sentiment(value: Any) -> str:
    """Return the sentiment of an event, one of SENTIMENTS."""
    return check_choice(value, "sentiment", SENTIMENTS)


# -- pages --------------------------------------------------------------------------------


def check_after(value: Any, kind: type[T], **expected: object) -> T | None:
    """Return `value`, the record of type `kind` after which a page begins; None for the first page.

    `expected` has the field values of every record in the list, such as `symbol="AAPL"`. A record with other
    values is refused.
    """
    if value is None:
        return None
    record = check_record(value, kind, "after")
    for name, wanted in expected.items():
        if getattr(record, name) != wanted:
            raise InvalidInput(f"after is {show(value)}; give a {kind.__name__} whose {name} is {wanted}")
    return record


def find_id(record: Any) -> UUID | None:
    """Return the checked id of the record after which a page begins; None without a record."""
    return None if record is None else check_id(record.id, "after.id")


def find_user_id(record: Any) -> UUID | None:
    """Return the checked user id of the record after which a page begins; None without a record."""
    return None if record is None else check_id(record.user_id, "after.user_id")


def find_place(record: Any) -> tuple[datetime, UUID] | None:
    """Return the checked creation time and id of the record after which a page begins; None without one."""
    if record is None:
        return None
    return check_time(record.created_at, "after.created_at"), check_id(record.id, "after.id")
