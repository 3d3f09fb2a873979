"""Partitions of the table of ticks: creates those of coming months, and drops old ones."""

from datetime import UTC, datetime, timedelta
from typing import Any

from core.database import Database
from core.queries import partitions, ticks
from core.records import PartitionReport
from core.service.argument_checks import check_duration, check_int
from core.service.market import list_market_keys
from core.service.writes import ServiceBase

MAX_MONTHS_AHEAD = 24


class Partitions(ServiceBase):
    """Call of the service that maintains the partitions of ticks."""

    def maintain_partitions(self, *, months_ahead: int = 2, keep: timedelta | None = None) -> PartitionReport:
        """Create the tick partitions of coming months, and drop those that end more than `keep` ago.

        With `keep` None, no partition is dropped. Ticks that were stored before their month had a partition
        are moved into the new partition. Symbols without any ticks are deleted. Safe to repeat, and to run
        concurrently: one call does the work, the others wait and find nothing to do. While partitions are
        created or dropped, ticks cannot be read or written. Waits up to 5 seconds for running reads and
        writes, and then raises a `DatabaseError`. Raises `InvalidInput`.
        """
        ahead = check_int(months_ahead, "months_ahead", minimum=0, maximum=MAX_MONTHS_AHEAD)
        now = self._clock()
        cutoff = _check_cutoff(keep, now)
        with self._write() as (database, changes), database.with_long_timeout():
            partitions.lock_maintenance(database)
            created, moved = _create_ahead(database, now, ahead)
            expired = [part for part in partitions.list_partitions(database) if part.end <= cutoff]
            # Each drop replaces `ticks_before`, the partition without a lower bound, with an empty one. So if
            # `ticks_before` is the only partition that is too old, it is dropped only if it has ticks:
            # otherwise every call would drop it and create it again.
            if [part for part in expired if part.begin is not None] or (
                expired and partitions.has_ticks(database, expired[-1].end)
            ):
                partitions.lock_ticks(database)
                # List the symbols after the lock. Otherwise a symbol that is inserted after the list but
                # before the lock would keep its cached tick.
                symbols = ticks.list_symbols(database)
                changes.invalidate(*list_market_keys(symbols))
                partitions.drop_partitions(database, expired[-1].end)
            else:
                expired = []
            partitions.delete_unused_symbols(database)
        return PartitionReport(created, tuple(part.name for part in expired), moved)


def _create_ahead(database: Database, now: datetime, ahead: int) -> tuple[tuple[str, ...], int]:
    """Create the missing partitions up to `ahead` months after the month of `now`.

    Returns their names, and how many ticks were moved into them.
    """
    begin, last = partitions.list_partitions(database)[-1].end, now
    for _ in range(ahead + 1):
        last = ticks.month_after(last)
    if begin >= last:
        return (), 0
    partitions.lock_ticks(database)
    names, moved = [], 0
    while begin < last:
        name, count = partitions.create_partition(database, begin)
        names.append(name)
        moved += count
        begin = ticks.month_after(begin)
    return tuple(names), moved


def _check_cutoff(keep: Any, now: datetime) -> datetime:
    if keep is None:
        return datetime.min.replace(tzinfo=UTC)
    return now - check_duration(keep, "keep", minimum=timedelta(days=1), maximum=timedelta(days=36_500))
