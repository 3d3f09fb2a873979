"""Tests of the array literals that `core.queries.rows` encodes: PostgreSQL decodes the same values."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from core.queries.rows import encode_ids, encode_numbers, encode_repeated
from tests.conftest import Execute

TEXTS = ["AAPL", "$NDX", "A,B", "{x}", 'say "hi"', "a\\b", "NULL", " ", ""]
COLUMNS: dict[str, tuple[str, list[Any]]] = {
    "uuid": (encode_ids(ids := [uuid4(), UUID(int=0), UUID(int=2**128 - 1)]), ids),
    "numeric": (encode_numbers(numbers := [Decimal("1.50"), None, Decimal("-1E+5"), Decimal(0)]), numbers),
    "bigint": (encode_numbers(volumes := [0, 2**63 - 1]), volumes),
    "text": (encode_repeated(TEXTS * 2), TEXTS * 2),
    "date": (encode_repeated(days := [date(2026, 3, 2), date(1, 1, 1), date.max]), days),
    "timestamptz": (encode_repeated(times := [datetime(2026, 3, 2, 12, 0, 0, 5, tzinfo=UTC)]), times),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_an_encoded_column_keeps_its_values(execute: Execute, kind: str) -> None:
    """`unnest` returns the values that were encoded, for each column type.

    This includes texts that look like an array or like NULL, and the years 1 and 9999.
    """
    encoded, expected = COLUMNS[kind]
    read = [value for (value,) in execute(f"SELECT unnest(%s::{kind}[])", (encoded,))]
    assert list(map(str, read)) == list(map(str, expected)) if kind == "uuid" else read == expected
