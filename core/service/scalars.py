"""Reads numbers, ids, texts and times of other libraries as plain Python values.

Owns the protocols by which a foreign scalar is recognised: `__index__`, `numbers.Real`, the
attributes of a UUID, and `item()` of numpy. No library is imported for it. Each function returns a
value of exactly the named type, or None when the argument is no such value or has no exact
meaning as one. It knows no argument names and raises nothing.
"""

from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from numbers import Rational, Real
from operator import index
from typing import Any
from uuid import UUID


def read_uuid(value: Any) -> UUID | None:
    """Read a `uuid.UUID`, its text, or a UUID of another library (`uuid_utils`, `fastuuid`)."""
    if type(value) is UUID:
        return value
    if isinstance(value, UUID):
        return UUID(int=value.int)
    if isinstance(value, str):
        try:
            return UUID(value)
        except ValueError:
            return None
    raw, number = getattr(value, "bytes", None), getattr(value, "int", None)
    if isinstance(raw, bytes) and len(raw) == 16 and number == int.from_bytes(raw):
        return UUID(bytes=raw)
    return None


def read_whole(value: Any) -> int | None:
    """Read an integer of any library; a bool or a float is none."""
    if type(value) is int:
        return value
    if isinstance(value, bool):
        return None
    try:
        # exactly an int, also for an IntEnum; numpy's bool and float have no __index__
        return index(value)
    except TypeError:
        return None


def read_decimal(value: Any) -> Decimal | None:
    """Read a number or its text; a float stands for the digits that it prints (0.1, not 0.1000...0555).

    A bool is no number, and neither is a fraction, which may have no end in decimal digits.
    """
    if type(value) is Decimal:
        return value
    digits = _find_digits(value)
    try:
        return None if digits is None else Decimal(digits)
    except InvalidOperation:
        return None


def _find_digits(value: Any) -> Decimal | str | int | None:
    if isinstance(value, Decimal | str):
        return value
    if isinstance(value, float):
        # also numpy.float64, whose own repr names the type
        return float.__repr__(value)
    if isinstance(value, Real) and not isinstance(value, Rational):
        # such as numpy.float32, which prints the shortest digits of its own precision
        return str(value)
    return read_whole(value)


def read_text(value: Any) -> str | None:
    """Read a text; of an enumeration of texts its value, not its name."""
    if type(value) is str:
        return value
    return str.__str__(value) if isinstance(value, str) else None


def read_flag(value: Any) -> bool | None:
    """Read a bool of Python or numpy; 0, 1 and texts are none."""
    plain = _unwrap(value)
    return plain if isinstance(plain, bool) else None


def read_day(value: Any) -> date | None:
    """Read a date, also of numpy in days; a datetime is none, because its time of day would be lost."""
    if type(value) is date:
        return value
    plain = _unwrap(value)
    if isinstance(plain, datetime) or not isinstance(plain, date):
        return None
    return date(plain.year, plain.month, plain.day)


def read_time(value: Any) -> datetime | None:
    """Read a datetime; pandas' NaT is none, and neither is a time finer than a microsecond."""
    if type(value) is datetime:
        return value
    if not isinstance(value, datetime) or not _is_exact(value):
        return None
    return datetime(
        value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond,
        tzinfo=value.tzinfo, fold=value.fold,
    )  # fmt: skip  # one argument a line would hide that these are all fields of a datetime


def read_duration(value: Any) -> timedelta | None:
    """Read a timedelta, also of numpy; NaT is none, and neither is one finer than a microsecond."""
    if type(value) is timedelta:
        return value
    plain = _unwrap(value)
    if not isinstance(plain, timedelta) or not _is_exact(plain):
        return None
    return timedelta(days=plain.days, seconds=plain.seconds, microseconds=plain.microseconds)


def _is_exact(value: datetime | timedelta) -> bool:
    """Say whether a subclass has a value at all (NaT equals nothing), and whole microseconds."""
    # pandas: a Timestamp has `nanosecond`, a Timedelta `nanoseconds`
    fine = getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0)
    return value == value and not fine  # noqa: PLR0124  # as above


def _unwrap(value: Any) -> Any:
    """Return the Python value of a numpy scalar, anything else as it is."""
    is_scalar = hasattr(value, "dtype") and getattr(value, "ndim", None) == 0
    return value.item() if is_scalar else value
