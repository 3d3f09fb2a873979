"""Statements that list the partitions of `ticks`, and have them created and dropped.

Partitions follow each other without a gap: `ticks_before`, which has no lower bound, then one per month;
later ticks are in `ticks_default`. Without gaps, a search for the latest tick of a symbol reads them
newest first and stops at the first row.
"""

import re
from datetime import UTC, datetime

import msgspec

from core.database import Database
from core.queries.rows import Row, count_changed, fetch_all

# Any fixed number: "tick" in ASCII.
MAINTENANCE_LOCK = 0x7469636B
# Everybody else waits behind a waiting table lock, so maintenance gives up after this time.
LOCK_TIMEOUT_MS = 5_000

# Functions of the owner: other roles cannot change the schema.
CREATE = "SELECT * FROM ticks_create_partition(%s)"
DROP = "SELECT ticks_drop_partitions(%s)"
HAS_TICKS = "SELECT EXISTS (SELECT FROM ticks WHERE timestamp < %s)"
LIST = """
    SELECT c.relname, pg_get_expr(c.relpartbound, c.oid)
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'ticks'::regclass AND c.relname <> 'ticks_default'"""
_WITHOUT_TICKS = "symbols s WHERE NOT EXISTS (SELECT 1 FROM ticks t WHERE t.symbol = s.symbol OFFSET 0)"
FIND_WITHOUT_TICKS = f"SELECT EXISTS (SELECT 1 FROM {_WITHOUT_TICKS})"
FORGET_SYMBOLS = f"DELETE FROM {_WITHOUT_TICKS}"
_BOUNDS = re.compile(r"FROM \((?:MINVALUE|'(?P<begin>[^']+)')\) TO \('(?P<end>[^']+)'\)")


class Partition(msgspec.Struct, frozen=True):
    """A partition with the ticks of [begin, end); `begin` None means no lower bound."""

    name: str
    begin: datetime | None
    end: datetime


def lock_maintenance(database: Database) -> None:
    """Lock out other maintenance until the transaction ends; limits the waits for table locks."""
    database.execute_sql("SELECT pg_advisory_xact_lock(%s)", (MAINTENANCE_LOCK,))
    database.execute_sql("SELECT set_config('lock_timeout', %s, true)", (str(LOCK_TIMEOUT_MS),))


def lock_ticks(database: Database) -> None:
    """Lock out readers and writers of ticks until the transaction ends."""
    database.execute_sql("LOCK TABLE ticks IN ACCESS EXCLUSIVE MODE")


def list_partitions(database: Database) -> tuple[Partition, ...]:
    """Return all partitions except the default one, oldest first."""
    return tuple(sorted(fetch_all(database, _build, LIST), key=lambda partition: partition.end))


def has_ticks(database: Database, until: datetime) -> bool:
    """Say whether there is a tick before a time."""
    return bool(database.execute_sql(HAS_TICKS, (until,)).fetchone()[0])


def create_partition(database: Database, begin: datetime) -> tuple[str, int]:
    """Create the partition of a month and move the ticks of the month out of the default partition.

    Returns the partition's name and how many ticks were moved. The caller holds the lock of `lock_ticks`.
    """
    [(name, moved)] = database.execute_sql(CREATE, (begin,)).fetchall()
    return str(name), int(moved)


def drop_partitions(database: Database, until: datetime) -> None:
    """Drop the partitions that end at or before a time, and create `ticks_before` again up to that time.

    The caller holds the lock of `lock_ticks`.
    """
    database.execute_sql(DROP, (until,))


def forget_symbols(database: Database) -> int:
    """Delete symbols without ticks; if there are any, writers are locked out until the transaction ends."""
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
