"""What reverting a migration takes away: tables and columns that have rows.

Owns the comparison of the schema before and after. Runs inside of the migration's transaction and
changes nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# Exact numbers are for people, and counting millions of rows takes seconds.
COUNTED_ROWS = 100_000
# Partitions come and go with their table.
LIST_COLUMNS = """
    SELECT relname, array_agg(attname::text)
    FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
    GROUP BY relname"""


class Table(NamedTuple):
    """A table at one moment; `rows` is exact up to COUNTED_ROWS and one more beyond that."""

    columns: frozenset[str]
    rows: int


def read_tables(execute_sql: Callable[..., Any], *, but: str) -> dict[str, Table]:
    """Return the tables of the current schema `but` one; `execute_sql` returns a cursor."""
    found = dict(execute_sql(LIST_COLUMNS).fetchall())
    found.pop(but, None)
    return {name: Table(frozenset(columns), _count(execute_sql, name)) for name, columns in found.items()}


def describe_losses(before: Mapping[str, Table], after: Mapping[str, Table]) -> list[str]:
    """Return what had rows and is gone, such as `quests (1,200 rows)`."""
    losses = []
    for name, table in sorted(before.items()):
        if not table.rows:
            continue
        if name not in after:
            losses.append(f"{name} ({_describe_rows(table.rows)})")
            continue
        gone = sorted(table.columns - after[name].columns)
        losses += [f"{name}.{column} ({_describe_rows(table.rows)})" for column in gone]
    return losses


def _count(execute_sql: Callable[..., Any], name: str) -> int:
    quoted = '"' + name.replace('"', '""') + '"'
    statement = f"SELECT count(*) FROM (SELECT FROM {quoted} LIMIT {COUNTED_ROWS + 1}) AS counted"
    [(rows,)] = execute_sql(statement).fetchall()
    return int(rows)


def _describe_rows(rows: int) -> str:
    if rows > COUNTED_ROWS:
        return f"more than {COUNTED_ROWS:,} rows"
    return f"{rows:,} row{'' if rows == 1 else 's'}"
