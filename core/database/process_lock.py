"""An advisory lock in the database that only one of several processes holds while it works.

Owns a connection outside the pool, and on it a transaction-level advisory lock, which each call of `hold`
takes again. A session-level lock would stay locked in a transaction pooler after its holder has ended, and a
transaction that stays open for days would trigger an alert. When the holder or its connection ends, the lock
is free.
"""

import psycopg2

from core.database.connector import Connector, ServerConnection
from core.database.driver_errors import translate, translate_connect
from core.database.statement_watch import StatementWatch

# The second key of the lock is a hash of the schema's name: installations that share a database have
# different schemas, and must not share the lock.
# The timeout is off, because the transaction is idle for as long as one step of the holder takes.
TAKE = (
    "BEGIN; {prefix}SET LOCAL idle_in_transaction_session_timeout = 0;"
    " SELECT pg_try_advisory_xact_lock({key}, hashtext(current_schema()))"
)


class ProcessLock:
    """A lock with its own number as the key, such as four ASCII letters; only one thread may use it."""

    def __init__(self, connector: Connector, key: int, *, timeout_seconds: float) -> None:
        """Open no connection yet; a statement without an answer is cut a second after `timeout_seconds`."""
        self._connector = connector
        self._key = key
        self._watch = StatementWatch(limit_seconds=timeout_seconds)
        self._raw: ServerConnection | None = None
        self._is_held = False

    def hold(self) -> bool:
        """Take the lock, or keep it; return whether this process has it now. Never waits.

        The lock belongs to an open transaction, and each call replaces that transaction by a new one. So
        another process can take the lock only after this one lost its connection, or in the microseconds of
        the replacement; `hold` then returns False. Raises `DatabaseError`.
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
        """Release the lock and close its connection; does nothing without a connection."""
        raw, self._raw, self._is_held = self._raw, None, False
        if raw is not None:
            raw.close()

    def _open(self) -> ServerConnection:
        try:
            return self._connector.open(cursor_factory=self._watch.cursor_factory)
        except psycopg2.Error as error:
            raise translate_connect(error) from error
