"""Reads the values of page sections in worker threads, and returns the last known value if a read fails.

Owns the last known values of this process, the last result of the database check, and how long a page waits
for a database that hangs. Shows nothing and runs no statement itself.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

from core.errors import DatabaseUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

ENTRIES = 256
"""Maximum number of last known values in memory. A value has at most some hundred rows."""

MAX_THREADS = 32
"""Maximum number of concurrent reads.

It is about three times the connections of the pool, so that some threads stay free if reads hang.
"""

SLOW_READ_SECONDS = 1.0
"""If a read takes longer than this, the reader checks the database: a server that hangs sends no error."""

CHECK_SECONDS = 2.0
"""Time between two checks of the database while it does not answer, for all visitors together."""

NO_ANSWER = "PostgreSQL does not answer; check that it is running"


class Reading(NamedTuple, Generic[T]):
    """A value and when it was read. If the latest read failed, `error` is its error, else None."""

    value: T
    read_at: datetime
    error: Exception | None = None


class ReadThreads:
    """Runs jobs in at most `limit` daemon threads: if one of them hangs, the process can still end."""

    def __init__(self, limit: int = MAX_THREADS) -> None:
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._limit = limit
        self._started = 0

    def submit(self, job: Callable[[], T]) -> "Future[T]":
        """Run `job` in a worker thread and return the future of its result."""
        future: Future[T] = Future()
        if not self._idle.acquire(blocking=False):
            with self._lock:
                if is_needed := self._started < self._limit:
                    self._started += 1
            if is_needed:
                threading.Thread(target=self._work, name="reading", daemon=True).start()
        self._jobs.put((job, future))
        return future

    def _work(self) -> None:
        while True:
            job, future = self._jobs.get()
            try:
                future.set_result(job())
            except BaseException as error:
                # catch every error: the future raises it in the caller's thread
                future.set_exception(error)
            # without this, an idle thread would keep its last value or traceback in memory
            del job, future
            self._idle.release()


class _Known(NamedTuple):
    value: Any
    read_at: datetime
    is_failing: bool


class Reader:
    """Reads values and keeps the last known value of each key. Thread safe.

    `is_database_up` checks the database; it takes about a second at most. `find_stale` is called after a
    read, in the thread of the read. If the service has returned a fail-safe value, it returns the age of this
    value in seconds; otherwise it returns None. Values younger than `fresh_seconds` are not read again. Set
    `fresh_seconds` above zero only if `record_health` is called after each health check. Otherwise pages
    would show an outage late.
    """

    def __init__(
        self,
        *,
        is_database_up: Callable[[], bool],
        find_stale: Callable[[], float | None],
        entries: int = ENTRIES,
        fresh_seconds: float = 0.0,
        slow_read_seconds: float = SLOW_READ_SECONDS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._is_database_up = is_database_up
        self._find_stale = find_stale
        self._capacity = entries
        self._fresh_seconds = fresh_seconds
        self._slow_read_seconds = slow_read_seconds
        self._clock = clock
        self._threads = ReadThreads()
        self._lock = threading.Lock()
        self._known: OrderedDict[Hashable, _Known] = OrderedDict()
        self._fresh_from = datetime.min.replace(tzinfo=UTC)
        self._checking = threading.Lock()
        self._checked_at = float("-inf")
        self._is_down = False

    def read(
        self,
        key: Hashable,
        load: Callable[[], T],
        *,
        max_age_seconds: float = 0.0,
    ) -> Reading[T]:
        """Return the value of `load`. If it fails, return the last known value of the key with the error.

        Raises the error if no value is known. A known value younger than `max_age_seconds` is returned
        without a new read if its last read succeeded. While the database does not answer, `load` is not
        called: the sections of a page would otherwise wait one after another.
        """
        known = self._find(key)
        if known is not None and self._is_fresh(known, max_age_seconds):
            return Reading(known.value, known.read_at)
        try:
            reading = self._load(load)
        except Exception as error:
            # catch every error: the page shows the last known value with a note
            self._record_failure(key, error)
            if known is None:
                raise
            return Reading(known.value, known.read_at, error)
        if reading.error is not None and known is not None and known.read_at > reading.read_at:
            reading = Reading(known.value, known.read_at, reading.error)
        self._store(key, reading)
        return reading

    def is_database_down(self) -> bool:
        """Return whether the database failed its last check.

        If it failed, and the check is older than CHECK_SECONDS, checks again first.
        """
        if not self._is_down:
            return False
        if time.monotonic() - self._checked_at >= CHECK_SECONDS:
            self._check()
        return self._is_down

    def record_health(self, *, is_up: bool) -> None:
        """Store the result of a database check. `server.page_reruns` calls this with each health check."""
        self._checked_at = time.monotonic()
        if self._is_down == is_up:
            if is_up:
                logger.warning("the database answers again")
            else:
                logger.warning("the database does not answer; pages show the last known values")
        self._is_down = not is_up

    def read_again(self) -> None:
        """Make the next read of every key call `load`, even if its last known value was read a moment ago."""
        self._fresh_from = self._clock()

    def _is_fresh(self, known: _Known, seconds: float) -> bool:
        if known.is_failing or self._is_down or known.read_at < self._fresh_from:
            return False
        return (self._clock() - known.read_at).total_seconds() < max(seconds, self._fresh_seconds)

    def _find(self, key: Hashable) -> _Known | None:
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
            return known

    def _store(self, key: Hashable, reading: Reading[Any]) -> None:
        with self._lock:
            known = self._known.get(key)
            # a slow read must not replace the value of a read that began later
            if known is None or known.read_at <= reading.read_at:
                is_failing = reading.error is not None
                self._known[key] = _Known(reading.value, reading.read_at, is_failing=is_failing)
            self._known.move_to_end(key)
            while len(self._known) > self._capacity:
                self._known.popitem(last=False)

    def _record_failure(self, key: Hashable, error: Exception) -> None:
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known[key] = known._replace(is_failing=True)
        if isinstance(error, DatabaseUnavailable) and not self._is_down:
            self._check()

    def _load(self, load: Callable[[], T]) -> Reading[T]:
        if self.is_database_down():
            raise DatabaseUnavailable(NO_ANSWER)

        def run() -> Reading[T]:
            started = self._clock()
            value = load()
            stale = self._find_stale()
            if stale is None:
                return Reading(value, started)
            self._check()
            error = DatabaseUnavailable(NO_ANSWER)
            return Reading(value, started - timedelta(seconds=stale), error)

        future = self._threads.submit(run)
        while True:
            try:
                return future.result(self._slow_read_seconds)
            except TimeoutError:
                if future.done():
                    return future.result()
            self._check()
            if self._is_down:
                # the read itself continues in its worker thread until its timeout
                raise DatabaseUnavailable(NO_ANSWER)

    def _check(self) -> None:
        """Check the database and store the result. Returns at once if another thread is checking."""
        if not self._checking.acquire(blocking=False):
            return
        try:
            self.record_health(is_up=self._is_database_up())
        finally:
            self._checking.release()
