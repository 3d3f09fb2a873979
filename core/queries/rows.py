"""Fetches rows as records.

Owns the step from a driver row to an immutable value; holds no statement.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from core.database import Database

T = TypeVar("T")

Row = tuple[Any, ...]
Parameters = Sequence[Any] | Mapping[str, Any]


def fetch_all(
    database: Database, build: Callable[[Row], T], statement: str, parameters: Parameters = ()
) -> tuple[T, ...]:
    """Run a statement and build a record from each of its rows."""
    rows: Iterable[Row] = database.execute_sql(statement, parameters).fetchall()
    return tuple(build(row) for row in rows)


def find_one(
    database: Database, build: Callable[[Row], T], statement: str, parameters: Parameters = ()
) -> T | None:
    """Run a statement and build a record from its row, or return None when there is none."""
    row: Row | None = database.execute_sql(statement, parameters).fetchone()
    return None if row is None else build(row)


def count_changed(database: Database, statement: str, parameters: Parameters = ()) -> int:
    """Run a statement and return how many rows it changed."""
    return int(database.execute_sql(statement, parameters).rowcount)
