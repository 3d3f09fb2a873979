"""A first-in-first-out pool of psycopg2 connections.

Owns who holds which connection, who waits, and when a connection is closed. It
connects and pings outside its lock, so that a hanging server never keeps a
connection from being checked in. Knows nothing of peewee and runs no query but
the ping.

Hand-over follows psycopg_pool: a connection goes straight to the waiter that
came first, or the permission to open one does.
"""

import contextlib
import logging
import random
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Literal

from core.database.connector import ServerConnection
from core.database.owner import Owner
from core.database.pooled_connection import (
    PooledConnection,
    Waiter,
    cancel_statements,
    describe_holders,
    reset_connection,
)
from core.database.statement_watch import sever
from core.errors import ConnectFailed, PoolClosed, PoolTimeout
from core.metrics import Metrics
from core.records import PoolStats

logger = logging.getLogger(__name__)

# Lets a server shed memory and a failover be noticed; spread so that not all reconnect at once.
MAX_LIFETIME_SECONDS = 3600.0
LIFETIME_JITTER = 0.1
# Longer than any unit of work of the service: a statement alone is cancelled earlier.
LEAK_SECONDS = 60.0
# A server that became writable again is noticed this soon.
EXPIRE_INTERVAL_SECONDS = 2.0
# A server that refused a further connection is asked again after this time, while a thread waits.
GROW_AGAIN_SECONDS = 5.0
# How often waiting and new requests look for leaks and for connections whose thread has ended.
RECLAIM_INTERVAL_SECONDS = 0.5

CloseReason = Literal["stale", "dead", "broken", "shutdown"]


class ConnectionPool:
    """Hands out at most `limit` connections, in the order in which they were asked for."""

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
        # in the order of arrival; one that gives up is removed without a search
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._size = 0
        self._is_closed = self._is_drained = False
        self._look_at = float("-inf")
        # connections of units of work that were given up where no lock may be taken
        self._abandoned: deque[tuple[ServerConnection, Owner]] = deque()
        self._expired_at = float("-inf")
        # how many connections the server accepts; learned when it refuses one
        self._cap = self._limit
        self._grow_at = float("-inf")
        # a connection broke at this time: those that were idle before it are pinged
        self._suspect_until = float("-inf")

    # -- checkout ---------------------------------------------------------------

    def checkout(self, operation: str, owner: Owner | None = None) -> ServerConnection:
        """Return a connection for its owner, or for this thread; give it back with `checkin`.

        Raises `PoolTimeout` after the checkout timeout, `PoolClosed` after `close`,
        and the driver's error when a new connection cannot be opened.
        """
        started = self._clock()
        self._look_when_due()
        owner = owner or Owner()
        place = self._acquire(operation, started)
        self._metrics.pool_wait_seconds.observe(self._clock() - started)
        while True:
            try:
                entry = self._make_usable(place)
                self._hand_out(entry, operation, owner)
            except ConnectFailed as error:
                place = self._take_another(error, operation, started)
            except BaseException:
                # an interrupt too: the place must not be lost
                self._release_slot()
                raise
            else:
                return entry.raw

    def _hand_out(self, entry: PooledConnection, operation: str, owner: Owner) -> None:
        entry.operation, entry.owner = operation, owner
        entry.used_since, entry.is_leak_known = self._clock(), False
        with self._lock:
            if not self._is_drained:
                self._used[id(entry.raw)] = entry
                return
        # the pool was closed while it was being opened
        self._close_raw(entry, "shutdown")
        self._refuse_when_closed()

    def _acquire(self, operation: str, started: float) -> PooledConnection | None:
        with self._lock:
            self._refuse_when_closed()
            self._counts["requests_num"] += 1
            if not self._waiters and self._idle:
                return self._idle.pop()
            if not self._waiters and self._may_grow():
                self._grow()
                return None
            self._counts["requests_queued"] += 1
            waiter = Waiter()
            self._waiters[waiter] = None
        return self._wait(waiter, operation, started)

    def _may_grow(self) -> bool:
        """Say whether another connection may be opened."""
        if self._size < self._cap:
            return True
        return self._size < self._limit and self._clock() >= self._grow_at

    def _take_another(self, error: ConnectFailed, operation: str, started: float) -> PooledConnection | None:
        """Give a place up that the server refuses, and wait for one of the others.

        Raises the error without any, and when the server did not answer: the others may be dead too.
        """
        with self._lock:
            others = self._size - 1
            if error.is_refused and others > 0 and not self._is_closed:
                self._learn_cap(others, error)
                self._size = others
                if self._idle:
                    return self._idle.pop()
                # this request is older than those that wait already
                waiter = Waiter()
                self._waiters[waiter] = None
                self._waiters.move_to_end(waiter, last=False)
                self._counts["requests_queued"] += 1
                self._drained.notify_all()
            else:
                waiter = None
        if waiter is None:
            self._release_slot()
            raise error
        return self._wait(waiter, operation, started)

    def _learn_cap(self, size: int, error: ConnectFailed) -> None:
        if self._cap == self._limit:
            logger.warning("the pool goes on with %d of %d connections: %s", size, self._limit, error)
        self._cap = size
        self._grow_at = self._clock() + GROW_AGAIN_SECONDS
        self._metrics.pool_max.set(size)

    def _note_opened(self) -> None:
        """After the server accepted more connections than before, let waiting requests open more."""
        with self._lock:
            if self._size <= self._cap:
                return
            self._cap = self._size
            self._grow_at = self._clock()
            self._metrics.pool_max.set(self._cap)
            if self._cap == self._limit:
                logger.info("the server gives all %d connections again", self._limit)
            self._let_grow()

    def _let_grow(self) -> None:
        """Let the first waiting request open a connection, if one may be opened."""
        if self._waiters and not self._is_closed and self._may_grow():
            self._grow()
            self._waiters.popitem(last=False)[0].grant(None)

    def _grow(self) -> None:
        """Reserve a place for a connection; beyond what the server accepted before, one at a time."""
        self._size += 1
        if self._size > self._cap:
            self._grow_at = self._clock() + GROW_AGAIN_SECONDS

    def _wait(self, waiter: Waiter, operation: str, started: float) -> PooledConnection | None:
        deadline = started + self._timeout_seconds
        try:
            while not waiter.is_granted and not self._is_closed:
                self._look_when_due()
                remaining = deadline - self._clock()
                if remaining <= 0:
                    break
                waiter.event.wait(min(remaining, RECLAIM_INTERVAL_SECONDS))
        except BaseException:
            # interrupted: what was granted meanwhile goes to whoever waits next
            self._give_up(waiter)
            raise
        with self._lock:
            self._wait_seconds += self._clock() - started
            if waiter.is_granted:
                # also when it came with the deadline: a granted place must not be lost
                return waiter.granted
            self._waiters.pop(waiter, None)
            self._refuse_when_closed()
            self._counts["requests_errors"] += 1
            self._metrics.pool_timeouts.inc()
            now, opening = self._clock(), self._size - len(self._used) - len(self._idle)
            is_full = self._cap < self._limit
            remedy = "the limit of the server or the role" if is_full else "DATABASE_CONNECTION_LIMIT"
            raise PoolTimeout(
                f"{operation} waited {now - started:.1f} s for one of {self._cap} connections"
                f"{', more than which the server refuses' if is_full else ''}"
                f" (held by: {describe_holders(self._used.values(), now, opening=opening)});"
                f" raise {remedy} or find what holds them"
            )

    def _give_up(self, waiter: Waiter) -> None:
        with self._lock:
            if not waiter.is_granted:
                self._waiters.pop(waiter, None)
                return
        if waiter.granted is not None:
            self._close_raw(waiter.granted, "dead")
        self._release_slot()

    def _refuse_when_closed(self) -> None:
        if self._is_closed:
            raise PoolClosed("the pool is closed; open a new service")

    # -- a usable connection ------------------------------------------------------

    def _make_usable(self, entry: PooledConnection | None) -> PooledConnection:
        if entry is not None:
            now = self._clock()
            if now >= entry.expires_at:
                self._close_raw(entry, "stale")
            elif not entry.needs_ping(now, self._suspect_until) or entry.ping():
                return entry
            else:
                with self._lock:
                    self._counts["connections_lost"] += 1
                    # the other idle connections may be broken too
                    self._suspect_until = now
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
        self._note_opened()
        lifetime = MAX_LIFETIME_SECONDS * self._jitter(1 - LIFETIME_JITTER, 1)
        return PooledConnection(raw, expires_at=now + lifetime)

    def expire_all(self) -> None:
        """Use none of the present connections any more: the role of the server has changed.

        Not for every refused write while it lasts: readers would connect anew each time.
        """
        with self._lock:
            now = self._clock()
            if now < self._expired_at + EXPIRE_INTERVAL_SECONDS:
                return
            self._expired_at = now
            for entry in (*self._idle, *self._used.values()):
                entry.expires_at = now

    # -- check-in -----------------------------------------------------------------

    def checkin(self, raw: ServerConnection) -> None:
        """Take a connection back; one that is broken is closed and its place is passed on."""
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
                # reclaimed meanwhile
                return
            now = self._clock()
            held_seconds = now - entry.used_since
            self._metrics.pool_use_seconds.observe(held_seconds)
            entry.owner, entry.idle_since = None, now
            if held_seconds > LEAK_SECONDS:
                logger.warning("%s held a connection for %.0f s", entry.operation, held_seconds)
            reason = self._closing_reason(entry, is_healthy=is_healthy, now=now)
            if reason is None:
                if self._waiters:
                    self._waiters.popitem(last=False)[0].grant(entry)
                else:
                    self._idle.append(entry)
                return
        self._close_raw(entry, reason)
        self._release_slot()

    def _closing_reason(self, entry: PooledConnection, *, is_healthy: bool, now: float) -> CloseReason | None:
        if not is_healthy:
            self._counts["connections_lost"] += 1
            self._suspect_until = now
            return "broken"
        if self._is_closed:
            return "shutdown"
        return "stale" if now >= entry.expires_at else None

    def _release_slot(self) -> None:
        """Give up one place, or pass the permission to connect to the first waiting request."""
        with self._lock:
            if self._waiters and not self._is_closed:
                self._waiters.popitem(last=False)[0].grant(None)
            else:
                self._size -= 1
                self._drained.notify_all()

    def _look_when_due(self) -> None:
        """Call `look_after` once an interval: it goes through all used connections."""
        if self._clock() >= self._look_at or self._abandoned:
            self.look_after()

    def look_after(self) -> None:
        """Warn of connections held for too long, and close those that nobody will check in."""
        with self._lock:
            self._look_at = self._clock() + RECLAIM_INTERVAL_SECONDS
            self._warn_of_leaks()
            self._let_grow()
            used = [(entry, entry.owner) for entry in self._used.values() if entry.owner is not None]
        while self._abandoned:
            with contextlib.suppress(IndexError):
                raw, owner = self._abandoned.popleft()
                if self.reclaim(raw, owner):
                    logger.warning("rolled back a block that %s dropped before its end", owner.name)
        for entry, owner in used:
            if owner.is_ended() and self.reclaim(entry.raw, owner):
                logger.warning("rolled back %s, which %s left open", entry.operation, owner.name)

    def reclaim(self, raw: ServerConnection, owner: Owner) -> bool:
        """Close a connection of an owner and with it its transaction; False if the owner has it no more."""
        with self._lock:
            entry = self._used.get(id(raw))
            if entry is None or entry.owner is not owner:
                return False
            del self._used[id(raw)]
            self._counts["connections_lost"] += 1
        # a statement that still runs on it fails, instead of keeping the close waiting
        sever(raw)
        self._close_raw(entry, "dead")
        self._release_slot()
        return True

    def abandon(self, raw: ServerConnection, owner: Owner) -> None:
        """Have a connection reclaimed soon; takes no lock."""
        self._abandoned.append((raw, owner))

    def _warn_of_leaks(self) -> None:
        now = self._clock()
        for entry in self._used.values():
            if now - entry.used_since > LEAK_SECONDS and not entry.is_leak_known:
                entry.is_leak_known = True
                logger.warning("a connection has been held too long by %s", describe_holders([entry], now))

    def _close_raw(self, entry: PooledConnection, reason: CloseReason) -> None:
        self._metrics.count_pool_closed(reason)
        entry.close()

    # -- close and figures --------------------------------------------------------

    def close(self, timeout_seconds: float) -> None:
        """Refuse new checkouts, wait for what runs, then cancel and close the rest."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = list(self._idle), deque()
            while self._waiters:
                self._waiters.popitem(last=False)[0].event.set()
            self._size -= len(idle)
        for entry in idle:
            self._close_raw(entry, "shutdown")
        with self._lock:
            # those being opened as well
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
        """Return the figures of this pool; waits in seconds."""
        if self._abandoned:
            self.look_after()
        with self._lock:
            return PoolStats(
                pool_max=self._cap,
                pool_size=self._size,
                pool_available=len(self._idle),
                pool_in_use=len(self._used),
                requests_waiting=len(self._waiters),
                requests_wait_seconds=self._wait_seconds,
                **self._counts,
            )

    def publish(self) -> None:
        """Set the gauges of the pool."""
        self._metrics.pool_idle.set(len(self._idle))
        self._metrics.pool_used.set(len(self._used))
        self._metrics.pool_pending.set(len(self._waiters))
