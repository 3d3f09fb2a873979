"""Statements that create, fill and drop the partitions of `ticks`.

Partitions follow each other without a gap, from `ticks_before`, which has no beginning, by
months to the last that was created; what is later is in `ticks_default`. Without gaps, a
search for the latest tick of a symbol visits them newest first and stops at the first hit.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from core.database import Database
from core.queries.rows import Row, count_changed, fetch_all

# Any fixed number: "tick" in ASCII.
MAINTENANCE_LOCK = 0x7469636B
# How long maintenance waits for a table, because everybody else then waits behind it.
LOCK_TIMEOUT_MS = 5_000

BEFORE, DEFAULT = "ticks_before", "ticks_default"
LIST = """
    SELECT c.relname, pg_get_expr(c.relpartbound, c.oid)
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'ticks'::regclass AND c.relname <> 'ticks_default'"""
# A writer that found its symbol listed must not lose it before its commit.
_WITHOUT_TICKS = "symbols s WHERE NOT EXISTS (SELECT FROM ticks t WHERE t.symbol = s.symbol OFFSET 0)"
FIND_WITHOUT_TICKS = f"SELECT EXISTS (SELECT FROM {_WITHOUT_TICKS})"
FORGET_SYMBOLS = f"DELETE FROM {_WITHOUT_TICKS}"
_BOUNDS = re.compile(r"FROM \((?:MINVALUE|'(?P<begin>[^']+)')\) TO \('(?P<end>[^']+)'\)")


class Partition(msgspec.Struct, frozen=True):
    """A range of ticks, without its end; `begin` None is the beginning of time."""

    name: str
    begin: datetime | None
    end: datetime


def lock_maintenance(database: Database) -> None:
    """Wait until nobody else maintains the partitions; holds until the transaction ends."""
    database.execute_sql("SELECT pg_advisory_xact_lock(%s)", (MAINTENANCE_LOCK,))
    database.execute_sql("SELECT set_config('lock_timeout', %s, true)", (str(LOCK_TIMEOUT_MS),))


def lock_ticks(database: Database) -> None:
    """Keep everybody else from the ticks until the transaction ends."""
    database.execute_sql("LOCK TABLE ticks IN ACCESS EXCLUSIVE MODE")


def list_partitions(database: Database) -> tuple[Partition, ...]:
    """Return the partitions but the default one, oldest first."""
    return tuple(sorted(fetch_all(database, _build, LIST), key=lambda partition: partition.end))


def has_ticks(database: Database, partitions: Sequence[Partition]) -> bool:
    """Say whether any of the partitions has a row."""
    return any(
        database.execute_sql(f"SELECT EXISTS (SELECT FROM {partition.name})").fetchone()[0]
        for partition in partitions
    )


def create_partition(database: Database, begin: datetime, end: datetime) -> tuple[str, int]:
    """Create a partition, fill it from the default one; return its name and how many rows those were.

    The caller has locked the ticks.
    """
    name = f"ticks_{begin:%Y_%m}"
    parameters = (begin, end)
    # not a temporary one, which a role may be forbidden to create
    moving = f"{name}_moving"
    database.execute_sql(f"CREATE UNLOGGED TABLE {moving} (LIKE ticks)")
    moved = database.execute_sql(
        f"""WITH moved AS (DELETE FROM {DEFAULT} WHERE timestamp >= %s AND timestamp < %s RETURNING *)
            INSERT INTO {moving} SELECT * FROM moved""",
        parameters,
    ).rowcount
    database.execute_sql(f"CREATE TABLE {name} PARTITION OF ticks FOR VALUES FROM (%s) TO (%s)", parameters)
    if moved:
        database.execute_sql(f"INSERT INTO {name} SELECT * FROM {moving}")
    database.execute_sql(f"DROP TABLE {moving}")
    return name, int(moved)


def drop_partitions(database: Database, partitions: Sequence[Partition]) -> None:
    """Drop the oldest partitions; what is older than the rest has a place again afterwards.

    The caller has locked the ticks.
    """
    for partition in partitions:
        database.execute_sql(f"DROP TABLE {partition.name}")
    database.execute_sql(
        f"CREATE TABLE {BEFORE} PARTITION OF ticks FOR VALUES FROM (MINVALUE) TO (%s)",
        (partitions[-1].end,),
    )


def forget_symbols(database: Database) -> int:
    """Remove symbols without ticks, if any; then writers are kept out until the transaction ends."""
    if not database.execute_sql(FIND_WITHOUT_TICKS).fetchone()[0]:
        return 0
    database.execute_sql("LOCK TABLE ticks IN SHARE ROW EXCLUSIVE MODE")
    return count_changed(database, FORGET_SYMBOLS)


def _build(row: Row) -> Partition:
    found = _BOUNDS.search(row[1])
    if found is None:
        raise ValueError(f"partition {row[0]} has the bounds {row[1]}; ranges of time were expected")
    begin, end = found["begin"], found["end"]
    return Partition(row[0], None if begin is None else _parse(begin), _parse(end))


def _parse(bound: str) -> datetime:
    return datetime.fromisoformat(bound).astimezone(UTC)
