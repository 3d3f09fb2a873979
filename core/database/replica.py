"""One replica: its pool, whether reads may use it, and the handling of its errors.

Owns the circuit breaker of the replica. A `ServerWatch` asks the replica for its state, and the answer
decides whether reads may use the replica. After a failed read the replica is used only after a newer answer.

A read is correct even if this decision is wrong. Each read requires an LSN in the write-ahead log. Before the
query, in the same message, a separate statement checks that the replica has replayed this LSN. The query
takes its snapshot after this check, so it sees every commit up to the LSN.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg2

from core.database.connector import ServerConnection
from core.database.database import Database
from core.database.driver_errors import (
    DEADLOCK,
    QUERY_CANCELED,
    READ_ONLY,
    SERIALIZATION_FAILURE,
    describe_refusal,
    find_sqlstate,
)
from core.database.read_consistency import LogTimeline, Lsn, format_lsn, parse_lsn
from core.database.replication_lag import PrimaryLsns
from core.database.server_watch import ServerWatch
from core.database.session_settings import PREFIX_END
from core.errors import ConnectFailed, DatabaseError, DatabaseUnavailable, PoolTimeout, QueryTimeout
from core.metrics import Metrics
from core.metrics.names import APPLICATION_PREFIX, ReadReason
from core.records import PoolStats
from core.settings import Settings

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

BEHIND, NO_REPLICA = "RR001", "RR002"  # SQLSTATEs of migrations/0026_replica_positions.py
# Reads the timeline from the control file, which is updated only at each restart point. So a new timeline may
# be seen late. The replica is not used until then.
STATE = """
    SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()::text, s.system_identifier::text,
           GREATEST(c.timeline_id, r.min_recovery_end_timeline),
           to_regprocedure('replica_require(pg_lsn)') IS NOT NULL
    FROM pg_control_system() AS s, pg_control_checkpoint() AS c, pg_control_recovery() AS r"""
# The shortest connect timeout of libpq. A caller waits at most this long for a connection to a replica, and
# then the primary answers.
CONNECT_MILLISECONDS = 2_000
# The replica is not used for this time after its replay has cancelled a query (a recovery conflict), because
# the replay usually cancels the next queries too.
CONFLICT_SECONDS = 1.0
# If the server cancels a statement after at least this fraction of the query timeout, the timeout counts as
# the reason. If the server cancels a statement sooner, there is another reason.
TIMEOUT_FRACTION = 0.9
# Two reasons why a replica is not used. They are not logged as warnings: the first applies only for a moment,
# and the second is a failure of the primary, not of the replica.
_NOT_ASKED = "it has not been asked yet"
_NO_FLOOR = "the LSN of the primary is unknown"


class AskPrimary(Exception):
    """A read has to run on the primary. `reason` says why no replica has answered it."""

    def __init__(self, reason: ReadReason) -> None:
        super().__init__(reason)
        self.reason = reason


class _ReplicaDatabase(Database):
    """The pool of a replica. Refuses a server whose system identifier is not that of the primary."""

    def __init__(self, settings: Settings, *, application_name: str, lsns: PrimaryLsns) -> None:
        self._lsns = lsns
        # pass metrics that nobody reads: this pool must not be counted as that of the primary, and its errors
        # not as errors of an operation, because the primary then answers
        super().__init__(
            settings,
            application_name=application_name,
            metrics=Metrics(application_name.removeprefix(APPLICATION_PREFIX)),
        )

    def _open_raw(self) -> ServerConnection:
        raw = super()._open_raw()
        log_timeline = self._lsns.log_timeline
        if log_timeline is None or raw.facts.system != log_timeline.system:
            raw.close()
            raise ConnectFailed("the replica is of another database system than the primary")
        return raw

    def cut_connections(self) -> None:
        """Make every wait on a connection fail. Called if the server does not answer."""
        self._pool.cut_all()


class Replica:
    """The connections of one process to one replica, and whether reads may use it; thread safe."""

    def __init__(
        self,
        settings: Settings,
        *,
        number: int,
        application_name: str,
        lsns: PrimaryLsns,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the `ServerWatch`. `number` is the place in DATABASE_REPLICA_URLS, counted from 1."""
        self.number = number
        self._lsns = lsns
        self._clock = clock
        own = settings.model_copy(
            update={"database_connect_timeout": min(settings.database_connect_timeout, CONNECT_MILLISECONDS)}
        )
        self._query_seconds = settings.database_query_timeout / 1000
        self._settings = own
        self._database = _ReplicaDatabase(own, application_name=application_name, lsns=lsns)
        self._lock = threading.Lock()
        self._reason: str | None = _NOT_ASKED
        self._paused_until = float("-inf")
        self._failed_at = float("-inf")
        self._is_logged = False
        self.lag_seconds: float | None = None
        """The lag of the replica when it last answered the watch; None before its first answer."""
        self._start_watch()

    def _start_watch(self) -> None:
        self._watch = ServerWatch(
            self._settings,
            STATE,
            on_answer=self._record_answer,
            on_failure=self._record_failure,
        )
        self._watch.start()

    def reset_after_fork(self) -> None:
        """Start a new watch, because a forked child does not have the threads of its parent."""
        self._lock = threading.Lock()
        self._reason = _NOT_ASKED
        self._start_watch()

    def close(self, timeout_seconds: float) -> None:
        """Stop the watch and drain the pool of the replica."""
        self._watch.stop()
        self._database.shut_down(timeout_seconds)

    @property
    def is_usable(self) -> bool:
        """Whether a read may be tried on the replica."""
        return self._reason is None and self._clock() >= self._paused_until

    @property
    def reason(self) -> str | None:
        """Why reads do not use the replica now, as text without an address. None while they use it."""
        if self._reason is None and self._clock() < self._paused_until:
            return "replay has just cancelled a query"
        return self._reason

    def pool_stats(self) -> PoolStats:
        """Return the counters and gauges of the replica's pool."""
        return self._database.pool_stats()

    # -- reads -------------------------------------------------------------------------------

    def read(
        self,
        lsn: Lsn,
        operation: str,
        query: Callable[Concatenate[Database, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a query that must see the commits up to `lsn`, and return its result.

        Raises `AskPrimary` if the replica cannot answer, and `QueryTimeout` if the query takes too long.
        """
        started = self._clock()
        try:
            with self._database.session(operation):
                unit = self._database.get_unit()
                unit.prefix += f"SELECT replica_require('{format_lsn(lsn)}'); {PREFIX_END}"
                return query(self._database, *args, **kwargs)
        except (DatabaseUnavailable, DatabaseError, PoolTimeout, QueryTimeout) as error:
            raise AskPrimary(self._classify_error(error, self._clock() - started)) from error

    def _classify_error(self, error: Exception, seconds: float) -> ReadReason:
        """Return why the read must run on the primary after `error`, as a metric label.

        Raises `error` if the primary would raise the same error.
        """
        state = None if error.__cause__ is None else find_sqlstate(error.__cause__)
        if state == BEHIND:
            return "behind"
        if state == QUERY_CANCELED and seconds >= self._query_seconds * TIMEOUT_FRACTION:
            raise error
        if state in {SERIALIZATION_FAILURE, DEADLOCK, QUERY_CANCELED}:
            self._paused_until = self._clock() + CONFLICT_SECONDS
            return "conflict"
        if state == READ_ONLY:
            # the statement writes or locks rows, which every replica refuses
            return "error"
        if state == NO_REPLICA:
            self._open_breaker("it is no replica any more")
            return "unavailable"
        if isinstance(error, DatabaseUnavailable):
            self._open_breaker("it does not answer")
            return "unavailable"
        return "unavailable" if isinstance(error, PoolTimeout) else "error"

    # -- circuit breaker -----------------------------------------------------------------------

    def _open_breaker(self, reason: str) -> None:
        with self._lock:
            self._failed_at = self._clock()
            self._reason = self._reason or reason

    def _record_answer(self, asked_at: float, row: tuple[Any, ...]) -> None:
        is_replica, replayed, system, timeline, has_function = row
        self.lag_seconds = None if replayed is None else self._lsns.measure_lag(parse_lsn(replayed))
        reason = self._find_fault(
            LogTimeline(system, timeline),
            parse_lsn(replayed) if is_replica and replayed else None,
            has_function=has_function,
        )
        with self._lock:
            if asked_at > self._failed_at or reason is not None:
                self._set_reason(reason)

    def _find_fault(
        self, log_timeline: LogTimeline, replayed: Lsn | None, *, has_function: bool
    ) -> str | None:
        floor = self._lsns.find_floor()
        if replayed is None:
            return "it is no replica"
        if floor is None:
            return _NO_FLOOR
        if log_timeline != self._lsns.log_timeline:
            return "it is on another timeline than the primary"
        if replayed < floor:
            return f"it is {self.lag_seconds:.1f} s behind"
        return None if has_function else "it has not replayed the migrations"

    def _record_failure(self, error: psycopg2.Error) -> None:
        with self._lock:
            self._failed_at = self._clock()
            self._set_reason(describe_refusal(error))
        self._database.cut_connections()

    def _set_reason(self, reason: str | None) -> None:
        self._reason = reason
        if reason in {_NOT_ASKED, _NO_FLOOR}:
            return
        if reason is not None and not self._is_logged:
            logger.warning("replica %d is not read from: %s", self.number, reason)
        elif reason is None and self._is_logged:
            logger.info("replica %d is read from again", self.number)
        self._is_logged = reason is not None
