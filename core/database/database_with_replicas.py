"""A primary and its replicas. Chooses the server of each read, and keeps the LSNs of commits.

A read that begins its own unit of work requires an LSN. It runs on a replica, if the replica has replayed the
write-ahead log up to this LSN. Otherwise it runs on the primary. A read in an open unit of work (such as a
transaction) and every write run on the primary. Each thread always tries the same replica first: as long as
its reads run on this replica, no read sees older data than an earlier read.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg2

from core.database.database import Database
from core.database.driver_errors import QUERY_CANCELED, find_sqlstate
from core.database.read_consistency import (
    SELECT_LOG_TIMELINE,
    SELECT_LSN,
    Demand,
    Lsn,
    OwnWrites,
    demanding,
    find_demand,
    find_tokens,
    parse_lsn,
)
from core.database.replica import AskPrimary, Replica
from core.database.replication_lag import MAX_LAG_SECONDS, PrimaryLsns
from core.database.server_watch import ServerWatch
from core.failover import KnownTimeline
from core.metrics import Metrics
from core.metrics.names import ReadReason
from core.records import ReplicaStats
from core.settings import Settings

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
Keys = TypeVar("Keys", bound=Sequence[str])

_UNKNOWN_SECONDS = 2 * MAX_LAG_SECONDS


class CommitUnanswered(psycopg2.OperationalError):
    """The server cancelled the message with COMMIT and the query for its LSN.

    The COMMIT may have happened.
    """


class DatabaseWithReplicas(Database):
    """The connections of one process to the primary and its replicas; thread safe."""

    def __init__(
        self, settings: Settings, *, application_name: str, metrics: Metrics, timeline: KnownTimeline
    ) -> None:
        self._timeline = timeline
        self._own_writes = OwnWrites(unknown_seconds=_UNKNOWN_SECONDS)
        self._lsns = PrimaryLsns()
        self._places = itertools.count()
        self._thread = threading.local()
        self.replicas: tuple[Replica, ...] = ()
        super().__init__(settings, application_name=application_name, metrics=metrics, timeline=timeline)
        self.replicas = tuple(
            Replica(each, number=number, application_name=application_name, lsns=self._lsns)
            for number, each in enumerate(settings.list_replicas(), start=1)
        )
        self._start_watch()

    def _start_watch(self) -> None:
        self._primary_watch = ServerWatch(
            self._settings,
            SELECT_LOG_TIMELINE,
            on_answer=self._lsns.record_answer,
            on_failure=self._lsns.record_failure,
        )
        self._primary_watch.start()

    def _reset_after_fork(self) -> None:
        super()._reset_after_fork()
        self._own_writes.reset_after_fork()
        self._lsns.reset_after_fork()
        for replica in self.replicas:
            replica.reset_after_fork()
        self._start_watch()

    # -- reads ---------------------------------------------------------------------------

    def read(
        self,
        operation: str,
        query: Callable[Concatenate[Database, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a query that changes nothing, and return its result.

        The query runs on a replica that has replayed the LSN that the read requires, or on the primary.
        """
        if self._units.find() is not None:
            return super().read(operation, query, *args, **kwargs)
        started = time.perf_counter()
        reason: ReadReason
        try:
            answer = self._choose().read(self._find_lsn(), operation, query, *args, **kwargs)
        except AskPrimary as refusal:
            reason = refusal.reason
        else:
            self._metrics.count_read("replica", "replayed")
            self._metrics.observe_operation(operation, time.perf_counter() - started)
            return answer
        self._metrics.count_read("primary", reason)
        return super().read(operation, query, *args, **kwargs)

    def _choose(self) -> Replica:
        place: int | None = getattr(self._thread, "place", None)
        if place is None:
            place = self._thread.place = next(self._places) % len(self.replicas)
        for replica in (*self.replicas[place:], *self.replicas[:place]):
            if replica.is_usable:
                return replica
        raise AskPrimary("unavailable")

    def _find_lsn(self) -> Lsn:
        """Return the LSN that the current read requires. Raises `AskPrimary` if it is unknown."""
        floor, log_timeline = self._lsns.find_floor(), self._lsns.log_timeline
        # Use no LSN of a former primary: the `ServerWatch` may still be connected to such a server.
        if floor is None or log_timeline is None or not log_timeline.is_of(self._timeline.connected):
            raise AskPrimary("unavailable")
        demand = find_demand() or Demand(self._own_writes.find_lsn())
        if demand.lsn is None:
            raise AskPrimary(demand.reason)
        lsn = max(floor, demand.lsn)
        for token in find_tokens():
            if token.log_timeline != log_timeline:
                raise AskPrimary("unknown")
            lsn = max(lsn, token.lsn)
        return lsn

    def load_after(self, lsn: Lsn | None, load: Callable[[Keys], T], keys: Keys) -> T:
        """Call `load` to read the values of cache keys from the database, and return its result.

        The reads must see the commits up to `lsn`. If `lsn` is None (unknown), they run on the primary.
        """
        with demanding(Demand(lsn)):
            return load(keys)

    # -- LSNs of commits ---------------------------------------------------------------

    def commit(self) -> None:
        """Commit, and ask for the LSN of the commit in the same message."""
        unit = self._state
        if self._lsns.log_timeline is None:
            # send COMMIT alone, because this primary has not reported an LSN yet: if the query for the
            # LSN failed in the same message, the COMMIT would fail too
            super().commit()
            self._own_writes.record(None)
            return
        if self._end_unbegun():
            return
        try:
            cursor = self.cursor()
            cursor.execute(f"COMMIT; {SELECT_LSN}")
            unit.lsn = _read_lsn(cursor)
        except psycopg2.Error as error:
            if find_sqlstate(error) == QUERY_CANCELED:
                raise CommitUnanswered("COMMIT was cancelled, and may have happened") from error
            raise
        self._own_writes.record(unit.lsn)

    def find_lsn(self) -> Lsn | None:
        """Return the LSN of a statement that has just committed itself, or None if it is unknown."""
        lsn = None
        if self._lsns.log_timeline is not None:
            try:
                cursor = self.cursor()
                cursor.execute(SELECT_LSN)
                lsn = _read_lsn(cursor)
            except psycopg2.Error as error:
                logger.debug("no LSN of a commit: %s", type(error).__name__)
        self._own_writes.record(lsn)
        return lsn

    # -- run ----------------------------------------------------------------------------------

    def _publish(self) -> None:
        super()._publish()
        for replica in self.replicas:
            self._metrics.set_replica(
                replica.number, lag_seconds=replica.lag_seconds, is_out=not replica.is_usable
            )

    def replica_stats(self) -> tuple[ReplicaStats, ...]:
        """Return the state of each replica, in the order of DATABASE_REPLICA_URLS."""
        return tuple(
            ReplicaStats(replica.number, replica.reason, replica.lag_seconds, replica.pool_stats())
            for replica in self.replicas
        )

    def shut_down(self, timeout_seconds: float) -> None:
        """Drain every pool, those of the replicas first. The timeout applies to all pools together."""
        deadline = time.monotonic() + timeout_seconds
        self._primary_watch.stop()
        for replica in self.replicas:
            replica.close(max(0.0, deadline - time.monotonic()))
        super().shut_down(max(0.0, deadline - time.monotonic()))


def _read_lsn(cursor: Any) -> Lsn | None:
    [(text,)] = cursor.fetchall()
    return None if text is None else parse_lsn(text)
