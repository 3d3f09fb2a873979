"""An advisory lock in the database, for a task that only one of several processes may do at a time.

Owns a connection outside the pool, and on this connection a transaction-level advisory lock. The lock becomes
free when the process or its connection ends. A session-level lock would not: a transaction pooler keeps the
session after its client has ended. Each call of `hold` takes the lock again in a new transaction, because a
transaction that stays open for days would trigger an alert.
"""

import psycopg2

from core.database.connector import Connector, ServerConnection
from core.database.driver_errors import translate, translate_connect
from core.database.statement_watch import StatementWatch

# The second key of the lock is a hash of the schema's name: installations that share a database have
# different schemas, and must not share the lock. idle_in_transaction_session_timeout is off, because the
# transaction is idle until the next call of `hold`.
TAKE = (
    "BEGIN; {prefix}SET LOCAL idle_in_transaction_session_timeout = 0;"
    " SELECT pg_try_advisory_xact_lock({key}, hashtext(current_schema()))"
)


class ProcessLock:
    """An advisory lock; for one thread only. `key` is a number that is different for each task."""

    def __init__(self, connector: Connector, key: int, *, timeout_seconds: float) -> None:
        """Open no connection yet. A statement fails if no answer comes within `timeout_seconds` plus 1 s."""
        self._connector = connector
        self._key = key
        self._watch = StatementWatch(limit_seconds=timeout_seconds)
        self._raw: ServerConnection | None = None
        self._is_held = False

    def hold(self) -> bool:
        """Take the lock, or keep it. Return whether this process has the lock now. Raises `DatabaseError`.

        Never waits for another process. If this process has the lock, the call ends the transaction with the
        lock and takes the lock again in a new one. Another process can take it in the microseconds between,
        or after this process has lost its connection.
        """
        if self._raw is None:
            self._raw = self._open()
        take = TAKE.format(prefix=self._raw.unit_prefix, key=self._key)
        try:
            with self._raw.cursor() as cursor:
                cursor.execute(f"COMMIT; {take}" if self._is_held else take)
                [(self._is_held,)] = cursor.fetchall()
                if not self._is_held:
                    # a process without the lock must not stay idle in a transaction: that would block VACUUM
                    cursor.execute("ROLLBACK")
        except psycopg2.Error as error:
            self.release()
            raise translate(error, "process_lock") from error
        return self._is_held

    def release(self) -> None:
        """Release the lock and close its connection. Does nothing without a connection."""
        raw, self._raw, self._is_held = self._raw, None, False
        if raw is not None:
            raw.close()

    def _open(self) -> ServerConnection:
        try:
            return self._connector.open(cursor_factory=self._watch.cursor_factory)
        except psycopg2.Error as error:
            raise translate_connect(error) from error
