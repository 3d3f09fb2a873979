"""Conversions between Python values and rows, and the calls that run a statement.

Owns the column lists, which are made from the fields of a record, and the conversion of a row to a record.
Also owns the conversion of values to array literals of PostgreSQL: psycopg2 sends an array literal in a
fraction of the time that a list of values takes. Contains no statement.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from decimal import Decimal
from operator import attrgetter
from typing import Any, TypeVar
from uuid import UUID

from core.database import Database
from core.records import Record

T = TypeVar("T")
R = TypeVar("R", bound=Record)

REPORT_MEMORY = "SET LOCAL work_mem = '64MB';"
"""Runs before a report: with less memory, PostgreSQL would use temporary files for 100,000 players."""

Row = tuple[Any, ...]
Parameters = Sequence[Any] | Mapping[str, Any]


# -- columns and records ------------------------------------------------------------------


def list_columns(record: type[Record], *, prefix: str = "") -> str:
    """Return the columns of a record for a SELECT or RETURNING, in the order of its fields."""
    return ", ".join(prefix + name for name in record.__struct_fields__)


def make_builder(record: type[R], **conversions: Callable[[Any], Any]) -> Callable[[Row], R]:
    """Return a function that builds a record from a row of its columns.

    `conversions` has at most one item: the name of a field and the function that converts its value.
    """
    if not conversions:
        return lambda row: record(*row)
    [(name, convert)] = conversions.items()
    place = record.__struct_fields__.index(name)
    return lambda row: record(*row[:place], convert(row[place]), *row[place + 1 :])


def get_first(row: Row) -> Any:
    """Return the first column of a row."""
    return row[0]


DISTRIBUTED: dict[str, str] = {}
"""Maps a statement to its replacement for distributed tables (see `core.queries.distributed`)."""


def is_distributed(database: Database) -> bool:
    """Return whether the tables are distributed over a Citus cluster."""
    return bool(database.connection().facts.is_distributed)


def _choose(database: Database, statement: str) -> str:
    return DISTRIBUTED.get(statement, statement) if is_distributed(database) else statement


def fetch_all(
    database: Database, build: Callable[[Row], T], statement: str, parameters: Parameters = ()
) -> tuple[T, ...]:
    """Run a statement and return `build(row)` for each of its rows."""
    rows: Iterable[Row] = database.execute_sql(_choose(database, statement), parameters).fetchall()
    return tuple(map(build, rows))


def find_one(
    database: Database, build: Callable[[Row], T], statement: str, parameters: Parameters = ()
) -> T | None:
    """Run a statement and return `build(row)` for its first row, or None if there is no row."""
    row: Row | None = database.execute_sql(_choose(database, statement), parameters).fetchone()
    return None if row is None else build(row)


def fetch_number(database: Database, statement: str, parameters: Parameters = ()) -> int:
    """Run a statement that returns one number, and return this number."""
    return int(database.execute_sql(_choose(database, statement), parameters).fetchone()[0])


def count_changed(database: Database, statement: str, parameters: Parameters = ()) -> int:
    """Run a statement and return how many rows it changed."""
    return int(database.execute_sql(_choose(database, statement), parameters).rowcount)


# -- columns of values --------------------------------------------------------------------


def collect_columns(records: Sequence[Any], names: Iterable[str]) -> dict[str, list[Any]]:
    """Return the values of each field in `names`, without the fields that are None in every record.

    This saves work: most ticks have values in half of their fields only.
    """
    nothing = [None] * len(records)
    columns = {name: list(map(attrgetter(name), records)) for name in names}
    return {name: values for name, values in columns.items() if values != nothing}


def encode_ids(ids: Iterable[UUID]) -> str:
    """Return UUIDs as an array literal."""
    # Format the integer of each UUID, because str(value) takes several times as long.
    return _join([value.int.to_bytes(16).hex() for value in ids])


def encode_numbers(numbers: Sequence[Decimal | int | None]) -> str:
    """Return numbers as an array literal; None becomes NULL."""
    # Look for None by type: to compare a Decimal with None takes longer than to format it.
    if type(None) in set(map(type, numbers)):
        return _join("NULL" if number is None else str(number) for number in numbers)
    return _join(map(str, numbers))


def encode_repeated(values: Sequence[Hashable]) -> str:
    """Return dates, times or symbols as an array literal. Equal values are formatted only once."""
    texts = {value: quote_element(str(value)) for value in set(values)}
    return _join(map(texts.__getitem__, values))


def quote_element(text: str) -> str:
    """Quote a string as an element of an array literal."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _join(texts: Iterable[str]) -> str:
    return "{" + ",".join(texts) + "}"
