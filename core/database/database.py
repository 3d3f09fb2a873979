"""peewee's pooled PostgreSQL database, with the pool of `core.database.pool`.

Owns units of work and the retry of reads. A connection is
checked out for one unit of work and always checked in; there is no autoconnect,
so a query outside a unit of work is an error at once instead of a leak.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import peewee
import psycopg2
from playhouse.pool import PooledPostgresqlDatabase

from core.database.connector import Connector, ServerConnection
from core.database.faults import (
    DRIVER_ERRORS,
    READ_ONLY,
    find_sqlstate,
    is_connection_lost,
    translate,
    translate_connect,
)
from core.database.pool import ConnectionPool
from core.database.query_log import QueryLog
from core.database.watch import StatementWatch
from core.errors import (
    ConnectFailed,
    DatabaseError,
    DatabaseUnavailable,
    PoolClosed,
    PoolTimeout,
    ServerHung,
)
from core.forks import call_in_forked_child
from core.metrics import Metrics
from core.records import PoolStats
from core.settings import Settings

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Maintenance and bulk loads: far above what a million rows take, and still an end.
LONG_SECONDS = 600.0
# What runs at shutdown may take this long before it is cancelled.
DRAIN_SECONDS = 5.0


class Database(PooledPostgresqlDatabase):  # type: ignore[misc]  # peewee has no annotations
    """One process's database; thread safe, one connection per thread at a time."""

    def __init__(self, settings: Settings, *, application_name: str, metrics: Metrics) -> None:
        self._metrics = metrics
        self._pool = ConnectionPool(
            self._open_raw,
            limit=settings.database_connection_limit,
            timeout_seconds=settings.database_pool_timeout / 1000,
            metrics=metrics,
        )
        self._watch = StatementWatch(limit_seconds=settings.database_query_timeout / 1000)
        query_log = QueryLog(
            settings.database_log_queries,
            slow_seconds=settings.database_slow_query / 1000,
            find_operation=self._operation_of_thread,
        )
        self._connector = Connector(settings, application_name)
        self._cursor_factory = query_log.extend(self._watch.cursor_factory)
        super().__init__(self._connector.url, autoconnect=False)
        # the one thread that is left may have been in a unit of work of its parent's
        call_in_forked_child(self._forget_connection)

    # -- peewee's hooks -------------------------------------------------------------

    def _open_raw(self) -> ServerConnection:
        # past peewee's _connect, which knows nothing of poolers
        try:
            return self._connector.open(cursor_factory=self._cursor_factory)
        except psycopg2.Error as error:
            raise translate_connect(error) from error

    def connect(self, reuse_if_open: bool = False) -> bool:  # noqa: FBT001, FBT002  # peewee's signature
        """Check a connection out for this thread.

        Unlike peewee's, this does not hold the database's lock meanwhile: the state
        is the thread's own, and a check-in must not wait behind a hanging connect.
        """
        if not self._state.closed:
            if reuse_if_open:
                return False
            raise peewee.OperationalError("connection already opened")
        self._forget_connection()
        raw = self._pool.checkout(self._operation_of_thread())
        self._state.set_connection(raw)
        if self.server_version is None:
            self._set_server_version(raw)
        return True

    def close(self) -> bool:
        """Check this thread's connection in."""
        if self._state.closed:
            return False
        raw = self._state.conn
        self._state.reset()
        self._pool.checkin(raw)
        return True

    def _forget_connection(self) -> None:
        self._state.reset()
        self._state.is_begin_due = False

    def _operation_of_thread(self) -> str:
        return getattr(self._state, "operation", "query")

    def begin(self, isolation_level: Any = None) -> None:
        """Begin a transaction with its first statement, in the same round trip."""
        if isolation_level is None and not self._isolation_level:
            self._state.is_begin_due = True
        else:
            super().begin(isolation_level)

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """Run a statement in the present transaction, or in its own."""
        if not self._state.closed:
            if self._begin_is_due():
                sql = f"BEGIN; {self._state.conn.unit_prefix}{sql}"
            elif not self.in_transaction():
                sql = f"{self._state.conn.unit_prefix}{sql}"
        # pg_stat_statements keeps it; behind the statement, because a comment in front may be dropped
        return super().execute_sql(f"{sql} /* op={self._operation_of_thread()} */", params)

    def cursor(self, named_cursor: Any = None) -> Any:
        """Return a cursor in the present transaction."""
        cursor = super().cursor(named_cursor)
        if self._begin_is_due():
            cursor.execute(f"BEGIN; {self._state.conn.unit_prefix}")
        return cursor

    def _begin_is_due(self) -> bool:
        """Say whether the next statement is the first of a transaction; True only once."""
        is_due = getattr(self._state, "is_begin_due", False)
        self._state.is_begin_due = False
        return is_due

    def commit(self) -> None:
        """Commit, unless there was no statement."""
        if not self._end_unbegun():
            super().commit()

    def rollback(self) -> None:
        """Roll back, unless there was no statement."""
        if not self._end_unbegun():
            super().rollback()

    def _end_unbegun(self) -> bool:
        is_unbegun = getattr(self._state, "is_begin_due", False) and not self.is_closed()
        self._state.is_begin_due = False
        return is_unbegun

    # -- units of work ----------------------------------------------------------------

    @contextmanager
    def session(self, operation: str) -> Iterator["Database"]:
        """Hold a connection for one unit of work named `operation`; nested calls share it.

        Driver errors leave as `core.errors`.
        """
        started = time.perf_counter()
        try:
            with self._checked_out(operation):
                yield self
        except (PoolTimeout, PoolClosed, ConnectFailed) as error:
            self._metrics.count_operation_error(
                operation, "08" if isinstance(error, ConnectFailed) else "pool"
            )
            raise
        except DRIVER_ERRORS as error:
            state = find_sqlstate(error)
            self._metrics.count_operation_error(operation, state[:2] if state else "08")
            if state == READ_ONLY:
                # it was the primary, or is it again: only a new connection finds out
                self._pool.expire_all()
            raise translate(error, operation) from error
        finally:
            self._metrics.observe_operation(operation, time.perf_counter() - started)

    @contextmanager
    def _checked_out(self, operation: str) -> Iterator[None]:
        outer = None if self.is_closed() else self._operation_of_thread()
        self._state.operation = operation
        if outer is not None:
            try:
                yield
            finally:
                self._state.operation = outer
            return
        self.connect()
        try:
            yield
        finally:
            self.close()

    @contextmanager
    def transaction_of(self, operation: str) -> Iterator["Database"]:
        """Like `session`, in a transaction: committed at the end, rolled back by an error."""
        with self.session(operation), self._atomic():
            yield self

    @contextmanager
    def _atomic(self) -> Iterator[None]:
        """Run an atomic block, whose end itself fails when the connection is gone.

        Its rollback on a lost connection raises over the error that says why. A child that was
        forked inside ends nothing: the connection is its parent's.
        """
        block = self.atomic()
        block.__enter__()
        try:
            yield
            self.check_transaction()
        except BaseException as error:
            try:
                if self.in_transaction():
                    block.__exit__(type(error), error, error.__traceback__)
            except DRIVER_ERRORS:
                logger.debug("rolling back failed; the connection is gone", exc_info=True)
            raise
        block.__exit__(None, None, None)

    def check_transaction(self) -> None:
        """Raise a `DatabaseError` in a child that was forked inside of the transaction."""
        if not self.in_transaction():
            raise DatabaseError(
                "the transaction belongs to the process that began it; end the child inside of the block"
            )

    @contextmanager
    def unhurried(self, timeout_seconds: float = LONG_SECONDS) -> Iterator[None]:
        """Let each statement of the block take `timeout_seconds`, if that is more than the query timeout.

        The server keeps to it until the present transaction ends, its commit included.
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
        """Run a query that changes nothing; retried once when its connection was lost.

        Inside a transaction it is not retried: what ran before would be missing. There a query
        that fails undoes nothing else.
        """
        if self.in_transaction():
            with self.transaction_of(operation):
                return query(self, *args, **kwargs)
        is_outermost = self.is_closed()
        try:
            with self.session(operation):
                return query(self, *args, **kwargs)
        except (ConnectFailed, ServerHung):
            # the caller has waited long enough
            raise
        except DatabaseUnavailable as error:
            if not is_outermost or error.__cause__ is None or not is_connection_lost(error.__cause__):
                raise
            logger.info("%s lost its connection; trying once more", operation)
        with self.session(operation):
            return query(self, *args, **kwargs)

    # -- run ------------------------------------------------------------------------------

    def pool_stats(self) -> PoolStats:
        """Return the figures of this process's pool."""
        return self._pool.stats()

    def shut_down(self, timeout_seconds: float = DRAIN_SECONDS) -> None:
        """Drain the pool: no new work, what runs may finish, then every connection is closed."""
        self._pool.close(timeout_seconds)
        self._watch.close()
