"""A connection of the pool, and a pending request for one.

Owns the ping, the reset at check-in, the closing, and the hand-over to a pending request.
"""

import logging
import select
import threading
from collections.abc import Callable, Collection, Sequence
from itertools import islice

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from core.database.connector import ServerConnection
from core.database.holder import Holder
from core.database.statement_watch import sever
from core.errors import EchoMarketsError
from core.failover import TIMELINE_SQL, Timeline

logger = logging.getLogger(__name__)

# A connection that was used within this time needs no ping, which would double the time of a short read.
PING_AFTER_IDLE_SECONDS = 30.0
# A failover behind a pooler is noticed within this time.
PING_POOLER_SECONDS = 1.0
# Most holders in an error message, so that it stays readable; those that have held longest come first.
SHOWN_HOLDERS = 10
# Timeout of a ping. A live server answers within this time; a longer timeout would delay other requests.
PING_SECONDS = 2.0
CANCEL_SECONDS = 1.0


class PooledConnection:
    """One connection of the pool; its times are readings of the pool's clock."""

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

    def needs_ping(self, now: float, suspect_until: float) -> bool:
        """Return whether the connection was idle for long, has received data, or may be broken.

        It may be broken if another connection broke while it was idle. An idle connection receives data when
        the server closes it or sends a notice; the ping finds out which. Behind a transaction pooler the
        server may be replaced unnoticed, so a connection through one is pinged more often.
        """
        if not self.raw.keeps_session and now - self._asked_at >= PING_POOLER_SECONDS:
            self._asked_at = now
            return True
        idled = now - self.idle_since
        return (
            idled >= PING_AFTER_IDLE_SECONDS
            or self.idle_since <= suspect_until
            or bool(self._arrivals.poll(0))
        )

    def ping(self) -> bool:
        """Send a query to the server; return whether it answered, behind a pooler from the same timeline."""
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
        """Close the connection; raises nothing if it is broken already."""
        try:
            self.raw.close()
        except psycopg2.Error:
            logger.debug("closing a connection failed", exc_info=True)


def cancel_statements(entries: Sequence[PooledConnection], connect: Callable[[], ServerConnection]) -> None:
    """Ask the server to cancel the statements on these connections, then shut their sockets down.

    Uses another connection and a thread, because psycopg2's cancel waits without a limit for a server
    that hangs, and blocks every other thread while it waits. Behind a transaction pooler no statement is
    cancelled: the process id is made up by the pooler, and may belong to another client.
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
        sever(entry.raw)


def describe_holders(entries: Collection[PooledConnection], now: float, *, opening: int = 0) -> str:
    """Return a text that names the operations that hold connections, their threads, and for how long."""
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
    """Roll back an open transaction; return whether the connection can be used again."""
    if raw.closed:
        return False
    try:
        if raw.info.transaction_status != TRANSACTION_STATUS_IDLE:
            with raw.cursor() as cursor:
                cursor.execute("ROLLBACK")
    except psycopg2.Error:
        return False
    return not raw.closed


class PendingRequest:
    """A thread's request for a connection.

    When `is_granted`, `granted` is a connection, or None as the permission to open one.
    """

    __slots__ = ("event", "granted", "is_granted")

    def __init__(self) -> None:
        self.event = threading.Event()
        self.granted: PooledConnection | None = None
        self.is_granted = False

    def grant(self, entry: PooledConnection | None) -> None:
        """Hand over a connection, or None as the permission to open one, and wake the waiting thread."""
        self.granted = entry
        self.is_granted = True
        self.event.set()
