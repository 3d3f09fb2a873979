"""Invalid or extreme argument values: texts, numbers, times and other types."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from tests.integration.test_arguments import DAY, ID, NOON


def nest(depth: int, *, is_list: bool = False) -> Any:
    """Return dicts, or lists, nested `depth` levels deep."""
    value: Any = {}
    for _ in range(depth):
        value = [value] if is_list else {"d": value}
    return value


LOOP: list[Any] = []
LOOP.append(LOOP)
TEXTS: tuple[Any, ...] = (
    "", " ", "\x00", "a\x00b", "\ud800", "a\udfffb", "x" * 1_000_000, "é" * 1_000_000, "\u202ea", "\u200b",
    "\ufeff", "\u2028", "a\nb", "\x1b[31m", "'; DROP TABLE users; --", "%s", "%(a)s", "{}", "\\", "*", "nan",
    "Infinity", "1e999999999", "0x10", "1_000", "\u0661\u0662", "\U0010ffff", "-1", "0", "9" * 5_000, "9999d",
)  # fmt: skip  # one value per line would make the list too long to read
NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**5_000, True, False, 0.1, -0.0, 1e308, 5e-324, float("nan"),
    float("inf"), float("-inf"), Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity"), Decimal("1E+999999"),
    Decimal("1E-999999"), Decimal("-0"), Decimal("9" * 1_000), Decimal("0.005"), 1j,
)  # fmt: skip  # as above
FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
TIMES: tuple[Any, ...] = (
    date.min, date.max, FIRST, LAST, FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None),
    FIRST.replace(tzinfo=timezone(timedelta(hours=14))), LAST.replace(tzinfo=timezone(timedelta(hours=-14))),
    NOON.replace(tzinfo=None), timedelta.min, timedelta.max, timedelta(0), timedelta(microseconds=1),
    NOON.timetz(),
)  # fmt: skip  # as above
SHAPES: tuple[Any, ...] = (
    None, [], {}, (), set(), [None], [[]], [{}], {"a": None}, {None: 1}, {1: 1}, {"\x00": 1}, {"a": "\ud800"},
    {"a": float("nan")}, {"a": 2**64}, {"a": b""}, {"a": {1}}, nest(500), nest(100_000),
    nest(100_000, is_list=True), {"a": nest(100_000, is_list=True)}, LOOP, {"a": LOOP}, [0] * 100_000,
    ["x"] * 5_000, ["A"] * 5_000, [ID] * 5_000, range(10**9), b"", b"\xff", bytearray(b"a"), object, object(),
    NotImplemented, Ellipsis, ID, DAY, NOON, ID.bytes, ID.int, {str(n): n for n in range(50_000)},
)  # fmt: skip  # as above
VALUES = (*TEXTS, *NUMBERS, *TIMES, *SHAPES)
