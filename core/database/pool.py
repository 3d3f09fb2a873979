"""A first-in-first-out pool of psycopg2 connections.

Owns the holder of each connection, the queue of pending requests, and the rules by which a connection is
closed. The pool does not hold its lock while it connects or pings, so other threads can check connections in
while a server hangs. Knows nothing of peewee, and sends no query except the ping.

A slot is the right to have one connection, open or being opened. The hand-over follows psycopg_pool: a
connection that is checked in goes to the oldest pending request. If a connection is closed, the oldest
pending request gets the slot, and may open a new connection.
"""

import contextlib
import logging
import random
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from core.database.connector import ServerConnection
from core.database.holder import Holder
from core.database.pooled_connection import (
    PooledConnection,
    cancel_statements,
    describe_holders,
    reset_connection,
)
from core.database.statement_watch import shut_socket_down
from core.errors import ConnectFailed, PoolClosed, PoolTimeout
from core.metrics import Metrics
from core.metrics.names import CloseReason
from core.records import PoolStats

logger = logging.getLogger(__name__)

# A connection is replaced after this time: reconnecting frees memory of the server, and notices a failover.
# A random fraction up to LIFETIME_JITTER is subtracted, so that not all connections are replaced together.
MAX_LIFETIME_SECONDS = 3600.0
LIFETIME_JITTER = 0.1
# A connection that is held for longer is logged as a leak. Units of work of the service are shorter, because
# slow statements are cancelled earlier.
LEAK_SECONDS = 60.0
# Minimum time between two effective calls of `expire_all`, which makes the pool reconnect after a failover.
# So the pool may notice a new primary this much later.
EXPIRE_INTERVAL_SECONDS = 2.0
# After the server has refused a connection, the pool does not try to grow for this time.
GROW_AGAIN_SECONDS = 5.0
# How often pending and new requests look for leaks, and for connections whose holder has ended.
RECLAIM_INTERVAL_SECONDS = 0.5


class PendingRequest:
    """A thread's request for a connection.

    If `is_granted` is true, `granted` is the connection, or None if the thread may open one.
    """

    __slots__ = ("event", "granted", "is_granted")

    def __init__(self) -> None:
        self.event = threading.Event()
        self.granted: PooledConnection | None = None
        self.is_granted = False

    def grant(self, entry: PooledConnection | None) -> None:
        """Wake the waiting thread with a connection, or with None as the permission to open one."""
        self.granted = entry
        self.is_granted = True
        self.event.set()


class ConnectionPool:
    """Hands out at most `limit` connections, in the order of the requests; thread safe."""

    def __init__(
        self,
        connect: Callable[[], ServerConnection],
        *,
        limit: int,
        timeout_seconds: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._connect = connect
        self._limit = limit
        self._timeout_seconds = timeout_seconds
        self._metrics = metrics
        self._clock = clock
        self._jitter = jitter
        self._metrics.pool_max.set(self._limit)
        self._counts: dict[str, Any] = dict.fromkeys(
            (
                "requests_num",
                "requests_queued",
                "requests_errors",
                "connections_num",
                "connections_errors",
                "connections_lost",
            ),
            0,
        )
        self._wait_seconds = 0.0
        self._lock = threading.Lock()
        self._drained = threading.Condition(self._lock)
        self._idle: deque[PooledConnection] = deque()
        self._used: dict[int, PooledConnection] = {}
        # in the order of arrival; a dict, because removing a request from it needs no search
        self._pending: OrderedDict[PendingRequest, None] = OrderedDict()
        self._size = 0
        self._is_closed = self._is_drained = False
        self._look_at = float("-inf")
        # connections of units of work that the garbage collector ended; a deque needs no lock, and the
        # collector may run in a thread that holds the pool's lock
        self._abandoned: deque[tuple[ServerConnection, Holder]] = deque()
        self._expired_at = float("-inf")
        # how many connections the server accepts: `limit`, until the server refuses one
        self._server_limit = self._limit
        self._grow_at = float("-inf")
        # when a connection last broke: a connection that was idle at that time is pinged before its next use
        self._last_broken_at = float("-inf")

    # -- checkout ---------------------------------------------------------------

    def checkout(self, operation: str, holder: Holder | None = None) -> ServerConnection:
        """Check a connection out for `holder`, by default this thread. The caller must call `checkin`.

        Raises `PoolTimeout` after the checkout timeout, `PoolClosed` after `close`, and the error of
        `connect` if a new connection cannot be opened.
        """
        started = self._clock()
        self._maintain_when_due()
        holder = holder or Holder()
        place = self._acquire(operation, started)
        self._metrics.pool_wait_seconds.observe(self._clock() - started)
        while True:
            try:
                entry = self._make_usable(place)
                self._hand_out(entry, operation, holder)
            except ConnectFailed as error:
                place = self._take_another(error, operation, started)
            except BaseException:
                # BaseException: after an interrupt too, another request must be able to open a connection
                self._release_slot()
                raise
            else:
                return entry.raw

    def _hand_out(self, entry: PooledConnection, operation: str, holder: Holder) -> None:
        entry.operation, entry.holder = operation, holder
        entry.used_since, entry.is_leak_known = self._clock(), False
        with self._lock:
            if not self._is_drained:
                self._used[id(entry.raw)] = entry
                return
        # the pool was closed while this connection was being opened
        self._close_raw(entry, "shutdown")
        self._refuse_when_closed()

    def _acquire(self, operation: str, started: float) -> PooledConnection | None:
        with self._lock:
            self._refuse_when_closed()
            self._counts["requests_num"] += 1
            if not self._pending and self._idle:
                return self._idle.pop()
            if not self._pending and self._may_grow():
                self._grow()
                return None
            request = self._enqueue()
        return self._wait(request, operation, started)

    def _enqueue(self, *, is_first: bool = False) -> PendingRequest:
        request = PendingRequest()
        self._pending[request] = None
        if is_first:
            self._pending.move_to_end(request, last=False)
        self._counts["requests_queued"] += 1
        return request

    def _may_grow(self) -> bool:
        if self._size < self._server_limit:
            return True
        return self._size < self._limit and self._clock() >= self._grow_at

    def _take_another(self, error: ConnectFailed, operation: str, started: float) -> PooledConnection | None:
        """Wait for a connection that is already open, after the server refused to open another one.

        Raises `error` if no other connection is open. Also raises it if the server did not answer, because
        the open connections may then be dead too.
        """
        with self._lock:
            others = self._size - 1
            may_wait = error.is_refused and others > 0 and not self._is_closed
            if may_wait:
                self._lower_server_limit(others, error)
                self._size = others
                if self._idle:
                    return self._idle.pop()
                # put the request first in the queue, because it is older than the pending ones
                request = self._enqueue(is_first=True)
                self._drained.notify_all()
        if may_wait:
            return self._wait(request, operation, started)
        self._release_slot()
        raise error

    def _lower_server_limit(self, size: int, error: ConnectFailed) -> None:
        if self._server_limit == self._limit:
            logger.warning("the pool goes on with %d of %d connections: %s", size, self._limit, error)
        self._server_limit = size
        self._grow_at = self._clock() + GROW_AGAIN_SECONDS
        self._metrics.pool_max.set(size)

    def _record_opened(self) -> None:
        """Increase `_server_limit` if the server accepted more connections than this limit.

        Then let the oldest pending request open another connection.
        """
        with self._lock:
            if self._size <= self._server_limit:
                return
            self._server_limit = self._size
            self._grow_at = self._clock()
            self._metrics.pool_max.set(self._server_limit)
            if self._server_limit == self._limit:
                logger.info("the server accepts all %d connections again", self._limit)
            self._let_grow()

    def _let_grow(self) -> None:
        """Let the oldest pending request open a connection, if one may be opened."""
        if self._pending and not self._is_closed and self._may_grow():
            self._grow()
            self._pending.popitem(last=False)[0].grant(None)

    def _grow(self) -> None:
        """Count one more connection, which the caller may open now.

        Above `_server_limit` the server may refuse the connection, so the next attempt is made only after
        GROW_AGAIN_SECONDS.
        """
        self._size += 1
        if self._size > self._server_limit:
            self._grow_at = self._clock() + GROW_AGAIN_SECONDS

    def _wait(self, request: PendingRequest, operation: str, started: float) -> PooledConnection | None:
        deadline = started + self._timeout_seconds
        try:
            while not request.is_granted and not self._is_closed:
                self._maintain_when_due()
                remaining = deadline - self._clock()
                if remaining <= 0:
                    break
                request.event.wait(min(remaining, RECLAIM_INTERVAL_SECONDS))
        except BaseException:
            # this thread was interrupted: a connection that it got meanwhile goes to the next pending request
            self._give_up(request)
            raise
        with self._lock:
            self._wait_seconds += self._clock() - started
            if request.is_granted:
                # check after the deadline too: a connection granted at the last moment must not be lost
                return request.granted
            self._pending.pop(request, None)
            self._refuse_when_closed()
            self._counts["requests_errors"] += 1
            self._metrics.pool_timeouts.inc()
            now, opening = self._clock(), self._size - len(self._used) - len(self._idle)
            is_full = self._server_limit < self._limit
            remedy = "the limit of the server or the role" if is_full else "DATABASE_CONNECTION_LIMIT"
            raise PoolTimeout(
                f"{operation} waited {now - started:.1f} s for one of {self._server_limit} connections"
                f"{', and the server refuses more' if is_full else ''}"
                f" (held by: {describe_holders(self._used.values(), now, opening=opening)});"
                f" raise {remedy} or find what holds them"
            )

    def _give_up(self, request: PendingRequest) -> None:
        with self._lock:
            if not request.is_granted:
                self._pending.pop(request, None)
                return
        if request.granted is not None:
            self._close_raw(request.granted, "dead")
        self._release_slot()

    def _refuse_when_closed(self) -> None:
        if self._is_closed:
            raise PoolClosed("the pool is closed; open a new service")

    # -- open and ping ------------------------------------------------------------

    def _make_usable(self, entry: PooledConnection | None) -> PooledConnection:
        if entry is not None:
            now = self._clock()
            if now >= entry.expires_at:
                self._close_raw(entry, "stale")
            elif not entry.needs_ping(now, self._last_broken_at) or entry.ping():
                return entry
            else:
                with self._lock:
                    self._counts["connections_lost"] += 1
                    # the other idle connections may be broken too
                    self._last_broken_at = now
                self._close_raw(entry, "dead")
        return self._open()

    def _open(self) -> PooledConnection:
        started = self._clock()
        try:
            raw = self._connect()
        except BaseException:
            with self._lock:
                self._counts["connections_errors"] += 1
            raise
        now = self._clock()
        self._metrics.pool_create_seconds.observe(now - started)
        with self._lock:
            self._counts["connections_num"] += 1
        self._record_opened()
        lifetime = MAX_LIFETIME_SECONDS * self._jitter(1 - LIFETIME_JITTER, 1)
        return PooledConnection(raw, opened_at=now, expires_at=now + lifetime)

    def expire_all(self) -> None:
        """Mark all current connections as expired. They are replaced before their next use.

        Called after a failover: they may lead to a server that refuses writes. Does nothing if the last
        effective call was less than EXPIRE_INTERVAL_SECONDS ago: otherwise all readers would reconnect after
        each refused write.
        """
        with self._lock:
            now = self._clock()
            if now < self._expired_at + EXPIRE_INTERVAL_SECONDS:
                return
            self._expired_at = now
            for entry in (*self._idle, *self._used.values()):
                entry.expires_at = now

    def cut_all(self) -> None:
        """Expire all connections, and shut down the sockets of those that are checked out.

        Called if the server does not answer. A thread that waits on such a socket gets an error immediately.
        """
        with self._lock:
            used = list(self._used.values())
            for entry in (*self._idle, *used):
                entry.expires_at = self._clock()
        for entry in used:
            shut_socket_down(entry.raw)

    # -- check-in -----------------------------------------------------------------

    def checkin(self, raw: ServerConnection) -> None:
        """Take a connection back, and give it to the oldest pending request, if there is one.

        If the connection is broken or has expired, it is closed, and that request may open a new one.
        """
        try:
            is_healthy = reset_connection(raw)
        except BaseException:
            self._take_back(raw, is_healthy=False)
            raise
        self._take_back(raw, is_healthy=is_healthy)

    def _take_back(self, raw: ServerConnection, *, is_healthy: bool) -> None:
        with self._lock:
            entry = self._used.pop(id(raw), None)
            if entry is None:
                # `reclaim` has closed the connection meanwhile
                return
            now = self._clock()
            held_seconds = now - entry.used_since
            self._metrics.pool_use_seconds.observe(held_seconds)
            entry.holder, entry.idle_since = None, now
            if held_seconds > LEAK_SECONDS:
                logger.warning("%s held a connection for %.0f s", entry.operation, held_seconds)
            reason = self._closing_reason(entry, is_healthy=is_healthy, now=now)
            if reason is None:
                if self._pending:
                    self._pending.popitem(last=False)[0].grant(entry)
                else:
                    self._idle.append(entry)
                return
        self._close_raw(entry, reason)
        self._release_slot()

    def _closing_reason(self, entry: PooledConnection, *, is_healthy: bool, now: float) -> CloseReason | None:
        if not is_healthy:
            self._counts["connections_lost"] += 1
            self._last_broken_at = now
            return "broken"
        if self._is_closed:
            return "shutdown"
        return "stale" if now >= entry.expires_at else None

    def _release_slot(self) -> None:
        """Record that a connection was closed. The oldest pending request may open a new one instead."""
        with self._lock:
            if self._pending and not self._is_closed:
                self._pending.popitem(last=False)[0].grant(None)
            else:
                self._size -= 1
                self._drained.notify_all()

    def _maintain_when_due(self) -> None:
        """Call `maintain`, but only every RECLAIM_INTERVAL_SECONDS, because it visits all connections."""
        if self._clock() >= self._look_at or self._abandoned:
            self.maintain()

    def maintain(self) -> None:
        """Log connections that are held for too long, and close those whose holder has ended."""
        with self._lock:
            self._look_at = self._clock() + RECLAIM_INTERVAL_SECONDS
            self._warn_of_leaks()
            self._let_grow()
            used = [(entry, entry.holder) for entry in self._used.values() if entry.holder is not None]
        while self._abandoned:
            with contextlib.suppress(IndexError):
                raw, holder = self._abandoned.popleft()
                if self.reclaim(raw, holder):
                    logger.warning("rolled back a block that %s dropped before its end", holder.name)
        for entry, holder in used:
            if holder.is_ended() and self.reclaim(entry.raw, holder):
                logger.warning("rolled back %s, which %s left open", entry.operation, holder.name)

    def reclaim(self, raw: ServerConnection, holder: Holder) -> bool:
        """Close the connection of a holder, so that the server rolls its transaction back.

        Returns False and closes nothing if the holder does not have this connection any more.
        """
        with self._lock:
            entry = self._used.get(id(raw))
            if entry is None or entry.holder is not holder:
                return False
            del self._used[id(raw)]
            self._counts["connections_lost"] += 1
        # makes a running statement fail, because closing the connection would wait for the statement
        shut_socket_down(raw)
        self._close_raw(entry, "dead")
        self._release_slot()
        return True

    def abandon(self, raw: ServerConnection, holder: Holder) -> None:
        """Queue a connection for `maintain` to reclaim. Takes no lock: the garbage collector calls this."""
        self._abandoned.append((raw, holder))

    def _warn_of_leaks(self) -> None:
        now = self._clock()
        for entry in self._used.values():
            if now - entry.used_since > LEAK_SECONDS and not entry.is_leak_known:
                entry.is_leak_known = True
                logger.warning("a connection has been held too long by %s", describe_holders([entry], now))

    def _close_raw(self, entry: PooledConnection, reason: CloseReason) -> None:
        self._metrics.count_pool_closed(reason)
        entry.close()

    # -- close and statistics -----------------------------------------------------

    def close(self, timeout_seconds: float) -> None:
        """Refuse new checkouts, wait for running units of work, then cancel those that still run.

        The wait takes at most `timeout_seconds`. Afterwards all connections are closed.
        """
        with self._lock:
            self._is_closed = True
            idle, self._idle = list(self._idle), deque()
            while self._pending:
                self._pending.popitem(last=False)[0].event.set()
            self._size -= len(idle)
        for entry in idle:
            self._close_raw(entry, "shutdown")
        with self._lock:
            # `_size` includes connections that are being opened
            self._drained.wait_for(lambda: self._size == 0, timeout_seconds)
            self._is_drained = True
            rest, self._used = list(self._used.values()), {}
            self._size -= len(rest)
        for entry in rest:
            logger.warning("cancelled %s, which did not end before shutdown", entry.operation)
        if rest:
            cancel_statements(rest, self._connect)
        for entry in rest:
            self._close_raw(entry, "shutdown")

    def stats(self) -> PoolStats:
        """Return the counters and gauges of this pool."""
        if self._abandoned:
            self.maintain()
        with self._lock:
            return PoolStats(
                pool_max=self._server_limit,
                pool_size=self._size,
                pool_available=len(self._idle),
                pool_in_use=len(self._used),
                requests_waiting=len(self._pending),
                requests_wait_seconds=self._wait_seconds,
                **self._counts,
            )

    def publish(self) -> None:
        """Set the pool's gauges in the metrics."""
        self._metrics.pool_idle.set(len(self._idle))
        self._metrics.pool_used.set(len(self._used))
        self._metrics.pool_pending.set(len(self._pending))
