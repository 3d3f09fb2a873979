"""Statements that list, create and drop the partitions of `ticks`.

There is no gap between partitions. `ticks_before` is the first one and has no lower bound. It is followed by
one partition for each month. `ticks_default` has all later ticks. So a search for the latest tick of a symbol
can read the partitions from the newest to the oldest and stop at the first row.
"""

import re
from datetime import UTC, datetime

import msgspec

from core.database import Database
from core.queries.rows import Row, count_changed, fetch_all

# The key of an advisory lock: an arbitrary constant ("tick" in ASCII).
MAINTENANCE_LOCK = 0x7469636B
# While maintenance waits for a table lock, all readers and writers wait behind it. So maintenance gives up
# after this time.
LOCK_TIMEOUT_MS = 5_000

# CREATE and DROP call functions that run with the owner's rights, because other roles cannot change the
# schema.
CREATE = "SELECT * FROM ticks_create_partition(%s)"
DROP = "SELECT ticks_drop_partitions(%s)"
HAS_TICKS = "SELECT EXISTS (SELECT FROM ticks WHERE timestamp < %s)"
LIST = """
    SELECT c.relname, pg_get_expr(c.relpartbound, c.oid)
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'ticks'::regclass AND c.relname <> 'ticks_default'"""
_WITHOUT_TICKS = "symbols s WHERE NOT EXISTS (SELECT 1 FROM ticks t WHERE t.symbol = s.symbol OFFSET 0)"
FIND_WITHOUT_TICKS = f"SELECT EXISTS (SELECT 1 FROM {_WITHOUT_TICKS})"
DELETE_UNUSED_SYMBOLS = f"DELETE FROM {_WITHOUT_TICKS}"
_BOUNDS = re.compile(r"FROM \((?:MINVALUE|'(?P<begin>[^']+)')\) TO \('(?P<end>[^']+)'\)")


class Partition(msgspec.Struct, frozen=True):
    """A partition with the ticks of [begin, end). If `begin` is None, it has no lower bound."""

    name: str
    begin: datetime | None
    end: datetime


def lock_maintenance(database: Database) -> None:
    """Keep other maintenance transactions out, and limit how long this transaction waits for table locks.

    Both last until the transaction ends.
    """
    database.execute_sql("SELECT pg_advisory_xact_lock(%s)", (MAINTENANCE_LOCK,))
    database.execute_sql("SELECT set_config('lock_timeout', %s, true)", (str(LOCK_TIMEOUT_MS),))


def lock_ticks(database: Database) -> None:
    """Lock the table `ticks` against readers and writers until the transaction ends."""
    database.execute_sql("LOCK TABLE ticks IN ACCESS EXCLUSIVE MODE")


def list_partitions(database: Database) -> tuple[Partition, ...]:
    """Return all partitions except the default partition, oldest first."""
    return tuple(sorted(fetch_all(database, _build, LIST), key=lambda partition: partition.end))


def has_ticks(database: Database, until: datetime) -> bool:
    """Return whether there is a tick before the time `until`."""
    return bool(database.execute_sql(HAS_TICKS, (until,)).fetchone()[0])


def create_partition(database: Database, begin: datetime) -> tuple[str, int]:
    """Create the partition of the month that starts at `begin`.

    Ticks of this month are moved from the default partition to the new one. Returns the name of the partition
    and the number of moved ticks. The caller holds the lock of `lock_ticks`.
    """
    [(name, moved)] = database.execute_sql(CREATE, (begin,)).fetchall()
    return str(name), int(moved)


def drop_partitions(database: Database, until: datetime) -> None:
    """Drop the partitions that end at or before the time `until`.

    `ticks_before` is dropped too. A new, empty `ticks_before` then ends where the oldest remaining partition
    begins. The caller holds the lock of `lock_ticks`.
    """
    database.execute_sql(DROP, (until,))


def delete_unused_symbols(database: Database) -> int:
    """Delete the symbols without ticks, and return their number.

    If there are symbols without ticks, writers of ticks have to wait until the transaction ends.
    """
    if not database.execute_sql(FIND_WITHOUT_TICKS).fetchone()[0]:
        return 0
    database.execute_sql("LOCK TABLE ticks IN SHARE ROW EXCLUSIVE MODE")
    return count_changed(database, DELETE_UNUSED_SYMBOLS)


def _build(row: Row) -> Partition:
    found = _BOUNDS.search(row[1])
    if found is None:
        raise ValueError(f"partition {row[0]} has the bounds {row[1]}; ranges of time were expected")
    begin, end = found["begin"], found["end"]
    return Partition(row[0], None if begin is None else _parse(begin), _parse(end))


def _parse(bound: str) -> datetime:
    return datetime.fromisoformat(bound).astimezone(UTC)
