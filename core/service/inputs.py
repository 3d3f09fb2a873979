"""Checks what callers pass in, before any SQL.

Owns the limits and the messages: each names the value and what is allowed. A function
returns the value in its canonical form or raises `InvalidInput`; it never changes data.
"""

import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, TypeVar
from uuid import UUID

from core.errors import InvalidInput
from core.models import SENTIMENTS, SYMBOL_PATTERN

T = TypeVar("T")

MAX_LIMIT = 1_000
MAX_OFFSET = 10_000_000
MAX_RADIUS = 100
MAX_SYMBOLS = 1_000
MAX_CANDLES = 20_000
MAX_MONEY = Decimal("9999999999999.99")  # numeric(15, 2)
MAX_PRICE = Decimal(1000000000000)
MAX_IMPACT = Decimal("999.99")  # numeric(5, 2)
MAX_VOLUME = 2**63 - 1
CENT = Decimal("0.01")

_SYMBOL = re.compile(SYMBOL_PATTERN + r"\Z")
_CATEGORY = re.compile(r"[A-Za-z0-9_.-]{1,50}\Z")
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,255}\Z")
_BUCKET = re.compile(r"([1-9][0-9]{0,3})([smhdw])\Z")
_BUCKET_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def show(value: Any) -> str:
    """Spell a value for a message, however large it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:
        # Python spells no number of more than 4,300 digits
        return f"a very large {type(value).__name__}"


def check_id(value: Any, name: str) -> UUID:
    """Return a UUID given as one or as its text."""
    if isinstance(value, UUID):
        return value
    if isinstance(value, str):
        try:
            return UUID(value)
        except ValueError:
            pass
    raise InvalidInput(f"{name} is {show(value)}; give a UUID")


def check_whole(value: Any, name: str, *, least: int, most: int) -> int:
    """Return a whole number between two bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidInput(f"{name} is {show(value)}; give a whole number from {least} to {most}")
    return value


def check_records(values: Any, kind: type[T], name: str) -> Iterator[T]:
    """Yield records of one kind; one of another kind is named by its place."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InvalidInput(f"{name} is {show(values)}; give a list of {kind.__name__}")
    for place, value in enumerate(values):
        if not isinstance(value, kind):
            raise InvalidInput(f"{name} {place} is {show(value)}; give a {kind.__name__}")
        yield value


def check_limit(value: Any) -> int:
    """Return how many rows to answer with at most."""
    return check_whole(value, "limit", least=1, most=MAX_LIMIT)


def check_text(value: Any, name: str, *, most: int, required: bool = True) -> Any:
    """Return a text of 1 to `most` characters, or None where it may be missing."""
    if value is None and not required:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= most or not _is_storable(value):
        raise InvalidInput(f"{name} is {show(value)}; give a text of 1 to {most} characters")
    return value


def check_username(value: Any) -> str:
    """Return a username: 1 to 50 printable characters, no space at either end."""
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= 50
        or not value.isprintable()
        or value != value.strip()
    ):
        raise InvalidInput(
            f"username is {show(value)}; give 1 to 50 printable characters without outer spaces"
        )
    return value


def check_email(value: Any) -> str | None:
    """Return an e-mail address, or None."""
    if value is None:
        return None
    if not isinstance(value, str) or not _EMAIL.match(value) or not value.isprintable():
        raise InvalidInput(f"email is {show(value)}; give an address such as alice@example.com")
    return value


def check_document(value: Any, name: str) -> dict[str, Any]:
    """Return a JSON object; None is the empty one."""
    if value is None:
        return {}
    try:
        is_document = isinstance(value, Mapping) and _is_json(value)
    except RecursionError:
        is_document = False
    if not is_document:
        raise InvalidInput(f"{name} is {show(value)}; give a mapping of texts to JSON values of 64 bits")
    return dict(value)


def _is_json(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_json(k) and _is_json(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(_is_json(item) for item in value)
    if isinstance(value, str):
        return _is_storable(value)
    # a whole float comes back from jsonb as an int, and msgpack has none of more than 64 bits
    return value is None or (isinstance(value, int | float) and -(2**63) <= value < 2**63)


def _is_storable(text: str) -> bool:
    """Say whether PostgreSQL can hold the text: no NUL, and nothing that UTF-8 cannot spell."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def check_category(value: Any) -> str:
    """Return the name of a leaderboard."""
    if not isinstance(value, str) or not _CATEGORY.match(value):
        raise InvalidInput(f"category is {show(value)}; give 1 to 50 letters, digits, '_', '.' or '-'")
    return value


def check_symbol(value: Any) -> str:
    """Return a ticker symbol."""
    if not isinstance(value, str) or not _SYMBOL.match(value):
        raise InvalidInput(
            f"symbol is {show(value)}; give 1 to 10 capitals, digits, '.' or '-', a capital first"
        )
    return value


def check_symbols(values: Any) -> list[str]:
    """Return symbols, each once, in the order given."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InvalidInput(f"symbols is {show(values)}; give a list of symbols")
    symbols = list(dict.fromkeys(check_symbol(value) for value in values))
    if len(symbols) > MAX_SYMBOLS:
        raise InvalidInput(f"{len(symbols)} symbols were asked for; give at most {MAX_SYMBOLS}")
    return symbols


def check_decimal(
    value: Any, name: str, *, least: Decimal, most: Decimal, quantum: Decimal | None = None
) -> Decimal:
    """Return a finite number between two bounds, rounded half-even to `quantum`."""
    number = _to_decimal(value)
    if number is None or not number.is_finite() or not least <= number <= most:
        raise InvalidInput(f"{name} is {show(value)}; give a number from {least} to {most}")
    return number if quantum is None else number.quantize(quantum, ROUND_HALF_EVEN)


def _to_decimal(value: Any) -> Decimal | None:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        # through repr: 0.1 stands for 0.1, not for the binary fraction next to it
        return Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        return None


def check_money(value: Any, name: str, *, signed: bool = False) -> Decimal:
    """Return an amount in whole cents."""
    least = -MAX_MONEY if signed else Decimal(0)
    return check_decimal(value, name, least=least, most=MAX_MONEY, quantum=CENT)


def check_price(value: Any, name: str) -> Decimal:
    """Return a price above zero, with the digits it was given with."""
    if isinstance(value, Decimal) and value.is_finite() and 0 < value <= MAX_PRICE:
        # most are: a batch has three prices in each of its ticks
        return value
    number = check_decimal(value, name, least=Decimal(0), most=MAX_PRICE)
    if number == 0:
        raise InvalidInput(f"{name} is {show(value)}; give a number above 0 up to {MAX_PRICE}")
    return number


def check_session_date(value: Any, now: datetime) -> date:
    """Return a session's UTC date; None is today's."""
    if value is None:
        return now.astimezone(UTC).date()
    if isinstance(value, datetime) or not isinstance(value, date):
        raise InvalidInput(f"session_date is {show(value)}; give a datetime.date")
    return value


def check_time(value: Any, name: str) -> datetime:
    """Return an aware time in UTC."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidInput(f"{name} is {show(value)}; give a datetime with a time zone")
    if value.tzinfo is UTC:
        return value
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidInput(f"{name} is {show(value)}; give a time that exists in UTC") from None


def check_bucket(value: Any) -> timedelta:
    """Return a bucket's width from a timedelta or a text such as 5m, 4h, 1d or 1w."""
    width = value if isinstance(value, timedelta) else None
    if isinstance(value, str) and (match := _BUCKET.match(value)):
        width = timedelta(**{_BUCKET_UNITS[match[2]]: int(match[1])})
    if width is None or not timedelta(seconds=1) <= width <= timedelta(days=366):
        raise InvalidInput(
            f"bucket is {show(value)}; give 1 s to 366 days, such as '5m', '1d' or a timedelta"
        )
    return width


def check_sentiment(value: Any) -> str:
    """Return one of the sentiments."""
    if value not in SENTIMENTS:
        raise InvalidInput(f"sentiment is {show(value)}; give one of {', '.join(SENTIMENTS)}")
    return str(value)
