"""peewee's pooled PostgreSQL database, with the pool of `core.database.pool`.

Owns units of work and the retry of reads. Each unit of work checks a connection out and always checks it in
again. `autoconnect` is off: peewee would otherwise open a connection for a query outside of a unit of work,
and nothing would check it in. Such a query raises an error.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import peewee
import psycopg2
from playhouse.pool import PooledPostgresqlDatabase

from core.database.connector import Connector, ServerConnection, register_types
from core.database.driver_errors import DRIVER_ERRORS, is_connection_lost, translate_connect
from core.database.holder import Holder
from core.database.pool import ConnectionPool
from core.database.query_log import QueryLog
from core.database.read_consistency import Lsn
from core.database.statement_watch import StatementWatch
from core.database.unit_of_work import Session, SessionManager, UnitOfWork, UnitsOfWork
from core.errors import ConnectFailed, DatabaseError, DatabaseUnavailable, ServerHung
from core.failover import KnownTimeline, Timeline
from core.forks import call_in_forked_child
from core.metrics import Metrics
from core.records import PoolStats, ReplicaStats
from core.settings import Settings

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Default statement timeout for maintenance and bulk loads. Loading a million rows takes much less time.
LONG_SECONDS = 600.0
# A shutdown waits this long for running units of work, and then cancels them.
DRAIN_SECONDS = 5.0


# The connection state that peewee finds outside of a unit of work.
_UNCONNECTED = UnitOfWork("query", Holder())


class Database(PooledPostgresqlDatabase):  # type: ignore[misc]  # peewee has no annotations
    """The database of one process; thread safe, with one connection per unit of work."""

    def __init__(
        self,
        settings: Settings,
        *,
        application_name: str,
        metrics: Metrics,
        timeline: KnownTimeline | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._units = UnitsOfWork()
        # attributes instead of methods: this saves one Python call at each statement
        self.in_transaction = self._units.in_transaction
        self.is_cache_bypassed = self._units.is_cache_bypassed
        self._query_log = QueryLog(
            settings.database_log_queries,
            slow_seconds=settings.database_slow_query / 1000,
            find_operation=lambda: self._state.operation,
        )
        timeline = timeline or KnownTimeline()
        self._connector = Connector(settings, application_name, timeline=timeline)
        super().__init__(self._connector.url, autoconnect=False)
        self._open_pool()
        # set gauges when metrics are published: setting them at each check-out would take a fifth of its time
        metrics.add_source(self._publish)
        timeline.learn_with(self._connect_once)
        # pooled connections that were opened before the timeline changed may lead to a former primary
        timeline.call_on_change(self._leave_timeline)
        timeline.call_on_newer(self._expire_connections)
        call_in_forked_child(self._reset_after_fork)

    def _open_pool(self) -> None:
        """Create the pool and the other objects that have threads, locks or connections."""
        settings = self._settings
        self._pool = ConnectionPool(
            self._open_raw,
            limit=settings.database_connection_limit,
            timeout_seconds=settings.database_pool_timeout / 1000,
            metrics=self._metrics,
        )
        self._watch = StatementWatch(
            limit_seconds=settings.database_query_timeout / 1000, on_check=self._pool.maintain
        )
        self._cursor_factory = self._query_log.extend(self._watch.cursor_factory)
        self._sessions = SessionManager(self._pool, self._units, self._metrics)

    def _connect_once(self) -> None:
        self._pool.checkin(self._pool.checkout("connect"))

    def _leave_timeline(self, before: Timeline | None) -> None:
        if before is not None:
            self._expire_connections()

    def _expire_connections(self) -> None:
        self._pool.expire_all()

    def _reset_after_fork(self) -> None:
        """Create an empty pool: a forked child must not use or close the sockets of its parent."""
        self._units.reset_after_fork()
        self._open_pool()

    # -- peewee's hooks -------------------------------------------------------------

    def _open_raw(self) -> ServerConnection:
        # peewee's own _connect is not used, because it does not support poolers
        try:
            raw = self._connector.open(cursor_factory=self._cursor_factory)
        except psycopg2.Error as error:
            raise translate_connect(error) from error
        register_types(raw)
        if self.server_version is None:
            self._set_server_version(raw)
        return raw

    @property
    def _state(self) -> UnitOfWork:
        """The current unit of work of this thread. peewee reads the state of the connection from it."""
        return self._units.current or _UNCONNECTED

    @_state.setter
    def _state(self, value: object) -> None:
        """Ignore the value that peewee's constructor sets. `UnitsOfWork` keeps the state of each thread."""

    def connect(self, reuse_if_open: bool = False) -> bool:  # noqa: ARG002, FBT001, FBT002  # peewee's signature
        """Always raise: a connection outside of a unit of work would never be checked in."""
        raise peewee.InterfaceError("a connection is checked out by session() alone")

    def close(self) -> bool:
        """Do nothing and return False: connections belong to units of work."""
        return False

    def _log_query(self, sql: str, params: Any) -> None:
        """Do nothing: peewee would log statement parameters at level DEBUG."""

    def begin(self, isolation_level: Any = None) -> None:
        """Begin a transaction. Without an isolation level, BEGIN is sent with the first statement."""
        if isolation_level is None and not self._isolation_level:
            self._state.is_begin_due = True
        else:
            super().begin(isolation_level)
            unit = self._state
            if unit.identity is not None:
                self.cursor().execute(unit.identity.get_prefix(unit.conn.server_version))

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """Run a statement and return a cursor. Driver errors are not translated.

        Without an open transaction the statement is committed at once.
        """
        unit = self._units.current
        if unit is None or unit.closed:
            raise peewee.InterfaceError("no unit of work is open; begin one with session()")
        if unit.is_begin_due:
            unit.is_begin_due = False
            sql = f"BEGIN; {unit.prefix}{sql}"
        elif not unit.transactions:
            sql = f"{unit.prefix}{sql}"
        # add the comment at the end: pg_stat_statements may drop a comment at the beginning
        sql = f"{sql} /* op={unit.operation} */"
        if self.query_hooks:
            return super().execute_sql(sql, params)
        # without hooks peewee's method does the same as these lines, but takes twice the time
        cursor = unit.conn.cursor()
        cursor.execute(sql, params or ())
        return cursor

    def cursor(self, named_cursor: Any = None) -> Any:
        """Return a cursor in the current transaction. Sends BEGIN if it has not been sent yet."""
        cursor = super().cursor(named_cursor)
        unit = self._state
        if unit.is_begin_due:
            unit.is_begin_due = False
            cursor.execute(f"BEGIN; {unit.prefix}")
        return cursor

    def commit(self) -> None:
        """Commit the transaction. Sends nothing if the transaction had no statement."""
        if not self._end_unbegun():
            super().commit()

    def rollback(self) -> None:
        """Roll the transaction back. Sends nothing if the transaction had no statement."""
        if not self._end_unbegun():
            super().rollback()

    def _end_unbegun(self) -> bool:
        is_unbegun = self._state.is_begin_due and not self.is_closed()
        self._state.is_begin_due = False
        return is_unbegun

    # -- units of work ----------------------------------------------------------------

    def find_unit(self) -> UnitOfWork | None:
        """Return the unit of work of the calling code, or None. Raises `TransactionMisused`."""
        return self._units.find()

    def get_unit(self) -> UnitOfWork:
        """Return the unit of work of the calling code. Raises `DatabaseError` if none is open."""
        unit = self._units.find()
        if unit is None:
            raise DatabaseError("no unit of work is open; begin one with session()")
        return unit

    def session(self, operation: str, holder: Holder | None = None) -> Session["Database"]:
        """Return a context manager for one unit of work. Nested blocks share its connection.

        Logs and metrics name the unit of work by `operation`. Only `holder`, by default the current thread,
        may use and end the block. Pass a holder if code of the calling program runs inside the block. Driver
        errors are translated to `core.errors`.
        """
        return Session(self._sessions, self, operation, holder)

    @contextmanager
    def transaction_of(self, operation: str, holder: Holder | None = None) -> Iterator["Database"]:
        """Open a session with a transaction. The end of the block commits it, and an error rolls it back."""
        with self.session(operation, holder), self._atomic():
            yield self

    @contextmanager
    def _atomic(self) -> Iterator[None]:
        """Begin a transaction, or a savepoint in an open transaction. Only its holder may end it.

        If the connection is lost, the error of the block is raised. peewee would raise the error of the
        rollback.
        """
        unit = self._state
        block = self.atomic()
        block.__enter__()
        try:
            yield
            unit.check_end()
        except BaseException as error:
            if not isinstance(error, GeneratorExit) and unit.is_usable():
                self._units.use(unit)
                try:
                    block.__exit__(type(error), error, error.__traceback__)
                except DRIVER_ERRORS:
                    logger.debug("rolling back failed; the connection is gone", exc_info=True)
            raise
        self._units.use(unit)
        block.__exit__(None, None, None)

    @contextmanager
    def with_long_timeout(self, timeout_seconds: float = LONG_SECONDS) -> Iterator[None]:
        """Set the statement timeout of the block to `timeout_seconds`.

        If the query timeout is longer than `timeout_seconds`, the statement timeout is the query timeout.

        The server keeps this timeout until the current transaction ends, also for its COMMIT.
        """
        limit_seconds = max(timeout_seconds, self._watch.limit_seconds)
        self.execute_sql("SET LOCAL statement_timeout = %s", (round(limit_seconds * 1000),))
        with self._watch.extended(self.connection(), limit_seconds):
            yield

    def read(
        self,
        operation: str,
        query: Callable[Concatenate["Database", P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a query that changes nothing, and return its result. Retry once if the connection was lost.

        In a transaction the query runs in a savepoint, and the transaction can continue after an error. There
        the query is not retried, because the earlier statements of the transaction would be missing.
        """
        if self.in_transaction():
            with self.transaction_of(operation):
                return query(self, *args, **kwargs)
        is_outermost = self._units.find() is None
        try:
            with self.session(operation):
                return query(self, *args, **kwargs)
        except (ConnectFailed, ServerHung):
            # no retry: the caller has already waited for a full timeout
            raise
        except DatabaseUnavailable as error:
            if not is_outermost or error.__cause__ is None or not is_connection_lost(error.__cause__):
                raise
            logger.info("%s lost its connection; trying once more", operation)
        with self.session(operation):
            return query(self, *args, **kwargs)

    # -- LSNs of commits --------------------------------------------------

    def find_lsn(self) -> Lsn | None:
        """Return None: the LSN of a commit is needed only with replicas."""
        return None

    # -- run ------------------------------------------------------------------------------

    def _publish(self) -> None:
        self._pool.publish()

    def pool_stats(self) -> PoolStats:
        """Return the counters and gauges of this process's pool."""
        return self._pool.stats()

    def replica_stats(self) -> tuple[ReplicaStats, ...]:
        """Return an empty tuple: this database has no replicas."""
        return ()

    def shut_down(self, timeout_seconds: float) -> None:
        """Drain the pool: refuse new units of work, let running ones finish, then close every connection."""
        self._pool.close(timeout_seconds)
        self._watch.close()
