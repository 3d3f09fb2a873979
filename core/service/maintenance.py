"""Maintenance: partitions of the ticks are created ahead of time, and dropped with age."""

from datetime import UTC, datetime, timedelta
from typing import Any

from core.database import Database
from core.queries import market, partitions
from core.records import PartitionReport
from core.service.base import ServiceBase
from core.service.inputs import check_duration, check_whole
from core.service.market import note_symbols

MAX_MONTHS_AHEAD = 24


class Maintenance(ServiceBase):
    """The maintenance area of the service."""

    def maintain_partitions(self, *, months_ahead: int = 2, keep: timedelta | None = None) -> PartitionReport:
        """Create the partitions of the coming months; drop those wholly older than `keep`.

        Ticks of a new month that came before its partition are moved into it, and symbols
        that have no ticks left are forgotten. Safe to repeat and to run by several at once:
        one works, the others wait and find it done. While partitions are created or dropped,
        ticks can be neither read nor written; waits up to 5 s for that and then gives up
        with a `DatabaseError`. Raises `InvalidInput`.
        """
        ahead = check_whole(months_ahead, "months_ahead", least=0, most=MAX_MONTHS_AHEAD)
        now = self._clock()
        cutoff = _check_cutoff(keep, now)
        with self._changing("maintain_partitions") as (database, changes), database.with_long_timeout():
            partitions.lock_maintenance(database)
            created, moved = _create_ahead(database, now, ahead)
            expired = [part for part in partitions.list_partitions(database) if part.end <= cutoff]
            # what has no beginning is there again after each drop, and empty
            if [part for part in expired if part.begin is not None] or partitions.has_ticks(
                database, expired
            ):
                partitions.lock_ticks(database)
                # from here on nobody adds a symbol that would stay in the cache
                symbols = market.list_symbols(database)
                note_symbols(changes, symbols)
                partitions.drop_partitions(database, expired)
            else:
                expired = []
            partitions.forget_symbols(database)
        return PartitionReport(created, tuple(part.name for part in expired), moved)


def _create_ahead(database: Database, now: datetime, ahead: int) -> tuple[tuple[str, ...], int]:
    """Create the months that are missing up to `ahead` months after this one, without a gap."""
    begin, last = partitions.list_partitions(database)[-1].end, now
    for _ in range(ahead + 1):
        last = market.month_after(last)
    if begin >= last:
        return (), 0
    partitions.lock_ticks(database)
    names, moved = [], 0
    while begin < last:
        end = market.month_after(begin)
        name, count = partitions.create_partition(database, begin, end)
        names.append(name)
        moved += count
        begin = end
    return tuple(names), moved


def _check_cutoff(keep: Any, now: datetime) -> datetime:
    if keep is None:
        return datetime.min.replace(tzinfo=UTC)
    return now - check_duration(keep, "keep", least=timedelta(days=1), most=timedelta(days=36_500))
