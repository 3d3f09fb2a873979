"""A lock of the database that one process of several holds, for as long as it works.

Owns a connection beside the pool, and on it an advisory lock of a transaction, which each call of `hold`
takes anew. A session's lock would stay behind in a transaction pooler when its holder ends, and an open
transaction that lasts for days would be an alert. When the holder or its connection ends, the lock is free.
"""

import psycopg2

from core.database.connector import Connector, ServerConnection
from core.database.driver_errors import translate, translate_connect
from core.database.statement_watch import StatementWatch

# The second key keeps stacks apart that share a database and have a schema each.
# The transaction lasts for a step of its holder, whatever the server allows for others.
TAKE = (
    "BEGIN; {prefix}SET LOCAL idle_in_transaction_session_timeout = 0;"
    " SELECT pg_try_advisory_xact_lock({key}, hashtext(current_schema()))"
)


class ProcessLock:
    """A lock with a number of its own, such as the four letters of a name in ASCII; for one thread."""

    def __init__(self, connector: Connector, key: int, *, timeout_seconds: float) -> None:
        """Statements without an answer for `timeout_seconds`, and a second more, are given up."""
        self._connector = connector
        self._key = key
        self._watch = StatementWatch(limit_seconds=timeout_seconds)
        self._raw: ServerConnection | None = None
        self._is_held = False

    def hold(self) -> bool:
        """Take or keep the lock until the next call; say whether this process has it. Never waits for it.

        Another process can have it in between only if this one's connection was lost, or if it asks in the
        microseconds between two transactions; this call then returns False. Raises `DatabaseError`.
        """
        if self._raw is None:
            self._raw = self._open()
        take = TAKE.format(prefix=self._raw.unit_prefix, key=self._key)
        try:
            with self._raw.cursor() as cursor:
                cursor.execute(f"COMMIT; {take}" if self._is_held else take)
                [(self._is_held,)] = cursor.fetchall()
                if not self._is_held:
                    # a waiting process must not stay idle in a transaction, which would hold VACUUM back
                    cursor.execute("ROLLBACK")
        except psycopg2.Error as error:
            self.release()
            raise translate(error, "process_lock") from error
        return self._is_held

    def release(self) -> None:
        """Give the lock up, with its connection; harmless when there is none."""
        raw, self._raw, self._is_held = self._raw, None, False
        if raw is not None:
            raw.close()

    def _open(self) -> ServerConnection:
        try:
            return self._connector.open(cursor_factory=self._watch.cursor_factory)
        except psycopg2.Error as error:
            raise translate_connect(error) from error
