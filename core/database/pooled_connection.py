"""One connection of the pool: its ping, its reset at check-in, and the cancelling of its statements."""

import logging
import select
import threading
from collections.abc import Callable, Collection, Sequence
from itertools import islice

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from core.database.connector import ServerConnection
from core.database.holder import Holder
from core.database.statement_watch import shut_socket_down
from core.errors import EchoMarketsError
from core.failover import TIMELINE_SQL, Timeline

logger = logging.getLogger(__name__)

# A connection that was used within this time is not pinged: a ping would double the time of a short read.
PING_AFTER_IDLE_SECONDS = 30.0
# Behind a transaction pooler an idle connection is pinged before its use if its last ping is longer ago than
# this. So a failover is noticed within this time.
PING_POOLER_SECONDS = 1.0
# An error message lists at most this many holders: those that have held a connection longest.
SHOWN_HOLDERS = 10
# Timeout of a ping. A live server answers sooner. A longer timeout would delay other requests.
PING_SECONDS = 2.0
# A shutdown waits this long for the server to cancel statements.
CANCEL_SECONDS = 1.0


class PooledConnection:
    """One connection of the pool. All its times are readings of the pool's clock."""

    __slots__ = (
        "_arrivals",
        "_asked_at",
        "expires_at",
        "holder",
        "idle_since",
        "is_leak_known",
        "operation",
        "raw",
        "used_since",
    )

    def __init__(self, raw: ServerConnection, *, opened_at: float, expires_at: float) -> None:
        self.raw = raw
        self._asked_at = opened_at
        self._arrivals = select.poll()
        self._arrivals.register(raw.fileno(), select.POLLIN)
        self.expires_at = expires_at
        self.idle_since = 0.0
        self.used_since = 0.0
        self.operation = ""
        self.is_leak_known = False
        self.holder: Holder | None = None

    def needs_ping(self, now: float, last_broken_at: float) -> bool:
        """Return whether this idle connection may be broken and must be pinged before its next use.

        It is pinged if it was idle for PING_AFTER_IDLE_SECONDS, or if another connection broke at
        `last_broken_at` while it was idle. It is also pinged if it has received data: the server has closed
        it or has sent a notice. Behind a transaction pooler it is also pinged if its last ping was more than
        PING_POOLER_SECONDS ago: there the server can be replaced while the connection stays open.
        """
        if not self.raw.keeps_session and now - self._asked_at >= PING_POOLER_SECONDS:
            self._asked_at = now
            return True
        idled = now - self.idle_since
        return (
            idled >= PING_AFTER_IDLE_SECONDS
            or self.idle_since <= last_broken_at
            or bool(self._arrivals.poll(0))
        )

    def ping(self) -> bool:
        """Return whether the server answers a query.

        Behind a transaction pooler the server must also have the same timeline as when the connection opened.
        """
        try:
            with self.raw.cursor() as cursor:
                if hasattr(cursor, "limit_seconds"):
                    cursor.limit_seconds = PING_SECONDS
                if not self.raw.keeps_session:
                    cursor.execute(f"SELECT {TIMELINE_SQL}")
                    [reported] = cursor.fetchone() or (None,)
                    return Timeline.parse(reported) == self.raw.facts.timeline
                cursor.execute("SELECT 1")
        except psycopg2.Error:
            return False
        except BaseException:
            # this thread was interrupted: the answer may still arrive, so the connection cannot be used again
            self.close()
            raise
        return True

    def close(self) -> None:
        """Close the connection. Raises no error if it is already broken."""
        try:
            self.raw.close()
        except psycopg2.Error:
            logger.debug("closing a connection failed", exc_info=True)


def cancel_statements(entries: Sequence[PooledConnection], connect: Callable[[], ServerConnection]) -> None:
    """Ask the server to cancel the statements on these connections, then shut their sockets down.

    The server is asked on a new connection in another thread. psycopg2's own `cancel` is not used: if the
    server hangs, it waits without a limit and blocks every other thread. Behind a transaction pooler no
    statement is cancelled: the process id there is invented by the pooler, and may be that of another client.
    """
    pids = [entry.raw.info.backend_pid for entry in entries if entry.raw.keeps_session]

    def cancel() -> None:
        try:
            raw = connect()
            try:
                with raw.cursor() as cursor:
                    cursor.execute("SELECT pg_cancel_backend(pid) FROM unnest(%s) AS pid", (pids,))
            finally:
                raw.close()
        except (EchoMarketsError, psycopg2.Error):
            logger.debug("cancelling statements failed", exc_info=True)

    if pids:
        thread = threading.Thread(target=cancel, name="cancel", daemon=True)
        thread.start()
        thread.join(CANCEL_SECONDS)
    for entry in entries:
        shut_socket_down(entry.raw)


def describe_holders(entries: Collection[PooledConnection], now: float, *, opening: int = 0) -> str:
    """Return a list of the operations that hold connections, as text.

    For example `get_user in MainThread for 3.2 s, 2 being opened`.
    """
    holders = [
        f"{entry.operation} in {entry.holder.name if entry.holder else 'no thread'}"
        f" for {now - entry.used_since:.1f} s"
        for entry in islice(entries, SHOWN_HOLDERS)
    ]
    if len(entries) > SHOWN_HOLDERS:
        holders.append(f"{len(entries) - SHOWN_HOLDERS} more")
    if opening > 0:
        holders.append(f"{opening} being opened")
    return ", ".join(holders) or "nobody by now"


def reset_connection(raw: ServerConnection) -> bool:
    """Roll back an open transaction. Return whether the connection can be used again."""
    if raw.closed:
        return False
    try:
        if raw.info.transaction_status != TRANSACTION_STATUS_IDLE:
            with raw.cursor() as cursor:
                cursor.execute("ROLLBACK")
    except psycopg2.Error:
        return False
    return not raw.closed
