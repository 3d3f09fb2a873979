"""Converts numbers, ids, strings, times and JSON documents of other libraries to plain Python values.

A value of another library is recognised by `__index__`, `numbers.Real`, the attributes of a UUID, or `item()`
of numpy. The library is never imported. A `to_` function returns a value of exactly one type, or None if the
argument cannot be converted exactly. The error messages are in `argument_checks`.
"""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from numbers import Rational, Real
from operator import index
from typing import Any
from uuid import UUID


def to_uuid(value: Any) -> UUID | None:
    """Convert a `uuid.UUID`, a UUID as a string, or a UUID of another library (`uuid_utils`, `fastuuid`)."""
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


def to_int(value: Any) -> int | None:
    """Convert an integer of any library; None for a bool or a float."""
    if type(value) is int:
        return value
    if isinstance(value, bool):
        return None
    try:
        # `index` returns exactly an int, also for an IntEnum. It raises for a bool or float of numpy, which
        # have no __index__.
        return index(value)
    except TypeError:
        return None


def to_decimal(value: Any) -> Decimal | None:
    """Convert a number, or a number as a string. The float 0.1 becomes 0.1, not 0.1000...0555.

    Returns None for a bool, and for a fraction, which may need infinitely many digits.
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
        # not repr(value): the repr of numpy.float64 contains the name of the type
        return float.__repr__(value)
    if isinstance(value, Real) and not isinstance(value, Rational):
        # for example numpy.float32: its str has the fewest digits that identify the value in its precision
        return str(value)
    return to_int(value)


def to_text(value: Any) -> str | None:
    """Convert a string. A member of a StrEnum becomes its value."""
    if type(value) is str:
        return value
    return str.__str__(value) if isinstance(value, str) else None


def to_bool(value: Any) -> bool | None:
    """Convert a bool of Python or numpy; None for other values, also 0 and 1."""
    plain = _unwrap(value)
    return plain if isinstance(plain, bool) else None


def to_date(value: Any) -> date | None:
    """Convert a date, or a numpy date in days; None for a datetime, whose time of day would be lost."""
    if type(value) is date:
        return value
    plain = _unwrap(value)
    if isinstance(plain, datetime) or not isinstance(plain, date):
        return None
    return date(plain.year, plain.month, plain.day)


def to_datetime(value: Any) -> datetime | None:
    """Convert a datetime; None for pandas' NaT, and for a time finer than a microsecond."""
    if type(value) is datetime:
        return value
    if not isinstance(value, datetime) or not _is_exact(value):
        return None
    return datetime(
        value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond,
        tzinfo=value.tzinfo, fold=value.fold,
    )  # fmt: skip  # with one argument per line, a reader hardly sees that every field is copied


def to_timedelta(value: Any) -> timedelta | None:
    """Convert a timedelta, also of numpy; None for NaT, and for a length finer than a microsecond."""
    if type(value) is timedelta:
        return value
    plain = _unwrap(value)
    if not isinstance(plain, timedelta) or not _is_exact(plain):
        return None
    return timedelta(days=plain.days, seconds=plain.seconds, microseconds=plain.microseconds)


def _is_exact(value: datetime | timedelta) -> bool:
    """Say whether a value is not NaT, and has no part finer than a microsecond."""
    # pandas.Timestamp has `nanosecond`, pandas.Timedelta has `nanoseconds`
    fine = getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0)
    return value == value and not fine  # noqa: PLR0124  # false for NaT


def _unwrap(value: Any) -> Any:
    """Return the Python value of a numpy scalar; return other values unchanged."""
    is_scalar = hasattr(value, "dtype") and getattr(value, "ndim", None) == 0
    return value.item() if is_scalar else value


# -- JSON -----------------------------------------------------------------------------------


class NotJsonError(Exception):
    """A value in a document cannot be JSON; `path` has the keys that lead to it, the innermost first."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.path: list[str] = []


def to_document(value: Mapping[Any, Any]) -> dict[str, Any]:
    """Convert a mapping to a JSON object of plain Python values. Raises `NotJsonError`."""
    plain = {}
    for key, item in value.items():
        try:
            plain[_to_key(key)] = _to_json(item)
        except NotJsonError as error:
            error.path.append(f"[{key!r}]")
            raise
    return plain


def _to_key(key: Any) -> str:
    text = to_text(key)
    if text is None or not is_storable(text):
        raise NotJsonError(key)
    return text


def _to_json(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Mapping):
        return to_document(value)
    if isinstance(value, list | tuple):
        return _to_array(value)
    text = to_text(value)
    if text is not None and is_storable(text):
        return text
    # A float must fit into 64 bits too: jsonb returns a whole float as an int, and msgpack (the format of
    # cached values) has no larger int.
    number = float(value) if isinstance(value, float) else to_int(value)
    if number is not None and -(2**63) <= number < 2**63:
        return number
    flag = to_bool(value)
    if flag is None:
        raise NotJsonError(value)
    return flag


def _to_array(values: list[Any] | tuple[Any, ...]) -> list[Any]:
    plain = []
    for place, item in enumerate(values):
        try:
            plain.append(_to_json(item))
        except NotJsonError as error:
            error.path.append(f"[{place}]")
            raise
    return plain


def is_storable(text: str) -> bool:
    """Say whether PostgreSQL can store the text: it has no NUL, and UTF-8 can encode it."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
