"""Values that no caller means, in every argument of every call and in every field of every record.

A call answers or raises one of the stack's own errors, soon and in few words. A new call, parameter or field
is covered by itself: by the table of calls in `test_arguments.py` and the annotations of the service.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from itertools import islice
from time import monotonic
from typing import Any, get_args, get_type_hints
from uuid import UUID

import msgspec
import pandas as pd
import pytest
from msgspec.structs import replace
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import DatabaseUnavailable, EchoMarketsError, QueryTimeout
from core.records import freeze
from core.testing import PostgresServer
from tests.conftest import KEYS, created_database
from tests.integration.test_arguments import DAY, ID, NOON, VALID
from tests.integration.test_loading import build_record
from tests.patience import stretch


def nest(depth: int, *, is_list: bool = False) -> Any:
    """Return documents, or lists, inside of each other."""
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
)  # fmt: skip  # one value a line would hide that each is another trap
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
# A megabyte is looked at once or twice; a statement of a refused value would take longer.
MOST_SECONDS = 5.0
MOST_LETTERS = 500
# One ends the service; what `on_progress` raises is the caller's own.
LEFT_OUT = {("close", "drain_seconds"), ("warm_cache", "on_progress")}
HINTS = {name: get_type_hints(getattr(EnhancedDatabaseService, name), localns={"pd": pd}) for name in VALID}


@pytest.fixture(scope="module")
def game(postgres_server: PostgresServer, template_database: str) -> Iterator[EnhancedDatabaseService]:
    """A service for the whole file, with a player who has a portfolio."""
    with created_database(postgres_server, template=template_database) as url:
        settings = Settings(
            database_url=SecretStr(url), encryption_keys=SecretStr(KEYS), enable_redis_cache=False
        )
        with open_service(settings) as service:
            service.load_users([replace(build_record("load_users", ID), id=ID)])
            service.get_current_portfolio(ID, DAY)
            yield service


def find_records(hint: Any) -> set[type[msgspec.Struct]]:
    """Return the kinds of records in an annotation that have fields of their own."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return {hint} if hint.__struct_fields__ else set()
    return set().union(*map(find_records, get_args(hint)))


def build_sample(hint: Any) -> Any:
    """Return a plausible value of an annotation."""
    plain = {str: "A", bool: False, int: 1, Decimal: Decimal(1), datetime: NOON, date: DAY, UUID: ID}
    kind = next((each for each in (hint, *get_args(hint)) if each in plain), None)
    if kind is not None and "tuple" not in str(hint) and "dict" not in str(hint):
        return plain[kind]
    return freeze({}) if "dict" in str(hint) else () if "tuple" in str(hint) else None


def build_base(name: str, kind: type[msgspec.Struct]) -> Any:
    """Return a record whose fields are replaced one by one."""
    if name.startswith("load_"):
        return build_record(name, ID)
    hints = get_type_hints(kind)
    return kind(**{field: build_sample(hints[field]) for field in kind.__struct_fields__})


def find_faults(
    service: EnhancedDatabaseService, name: str, cases: Iterable[tuple[str, dict[str, Any]]]
) -> Iterator[str]:
    """Yield what is wrong with the answers of a call to arguments, each of which has a name."""
    for case, arguments in cases:
        started = monotonic()
        try:
            answer = getattr(service, name)(**{**VALID[name], **arguments})
            if isinstance(answer, AbstractContextManager):
                with answer:
                    pass
            elif isinstance(answer, Iterator):
                list(islice(answer, 3))
        except EchoMarketsError as error:
            if isinstance(error, DatabaseUnavailable | QueryTimeout) or len(str(error)) > MOST_LETTERS:
                yield f"{case}: {type(error).__name__} {str(error)[:200]}"
        except Exception as error:
            yield f"{case}: {type(error).__name__} {str(error)[:200]}"
        if monotonic() - started > stretch(MOST_SECONDS):
            yield f"{case}: {monotonic() - started:.1f} s"


@pytest.mark.parametrize("name", VALID)
def test_no_argument_leads_to_a_foreign_error(game: EnhancedDatabaseService, name: str) -> None:
    """Each value in each argument, the others valid."""
    cases = (
        (f"{parameter}, value {place}", {parameter: value})
        for parameter in VALID[name]
        if (name, parameter) not in LEFT_OUT
        for place, value in enumerate(VALUES)
    )
    assert not list(find_faults(game, name, cases))


RECORDS = [
    (name, parameter, kind)
    for name, hints in HINTS.items()
    for parameter, hint in hints.items()
    if parameter in VALID[name]
    for kind in sorted(find_records(hint), key=str)
]


@pytest.mark.parametrize(("name", "parameter", "kind"), RECORDS)
def test_no_field_of_a_record_leads_to_a_foreign_error(
    game: EnhancedDatabaseService, name: str, parameter: str, kind: type[msgspec.Struct]
) -> None:
    """Each value in each field of the records that a call takes: of loads, batches and pages."""
    base = build_base(name, kind)
    is_list = any(word in str(HINTS[name][parameter]) for word in ("Iterable", "Sequence"))
    cases = (
        (f"{field}, value {place}", {parameter: [record] if is_list else record})
        for field in kind.__struct_fields__
        for place, value in enumerate(VALUES)
        for record in [replace(base, **{field: value})]
    )
    assert not list(find_faults(game, name, cases))
