"""Gives page scripts the service of this process, a cache of a few seconds, and the last known values.

The server's lifespan (or a test) sets the service, and scripts get it here. This module never opens or closes
the service. Module state is needed because Streamlit runs the scripts itself and passes them no arguments.
"""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from streamlit import runtime

from core import EnhancedDatabaseService
from core.errors import EchoMarketsError
from core.metrics import Metrics
from dashboard.section_reads import Reader

T = TypeVar("T")

CACHE_SECONDS = 5.0
"""Lifetime of an entry: too short for visitors to notice, long enough for many views to share one read."""

CACHE_ENTRIES = 256
"""Most entries in the cache; each holds at most some hundred rows."""


READ_AGAIN_SECONDS = 5.0
"""Shortest time between two full refreshes: reports of a large game take seconds to compute."""


class ShortCache:
    """Cache for small reads that every view repeats and the service does not cache; thread safe.

    An entry expires `seconds` after its read began. Threads that miss at the same time each read the value
    themselves: such reads are too short to be worth a single-flight.
    """

    def __init__(
        self,
        *,
        seconds: float = CACHE_SECONDS,
        entries: int = CACHE_ENTRIES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._capacity = entries
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()

    def get_or_load(self, key: Hashable, load: Callable[[], T]) -> T:
        """Return the cached value, or load and cache it; errors are not cached."""
        started = self._clock()
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and started - entry[0] < self._seconds:
                self._entries.move_to_end(key)
                value: T = entry[1]
                return value
        value = load()
        with self._lock:
            entry = self._entries.get(key)
            # a slow read must not replace the value of a read that began later
            if entry is None or entry[0] <= started:
                self._entries[key] = (started, value)
            self._entries.move_to_end(key)
            while len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
        return value

    def clear(self) -> None:
        """Remove all entries."""
        with self._lock:
            self._entries.clear()


class _Holder:
    service: EnhancedDatabaseService | None = None
    cache = ShortCache()
    reader: Reader | None = None
    read_again_lock = threading.Lock()
    read_again_at = -math.inf
    updates = 0


def set_service(service: EnhancedDatabaseService | None, *, fresh_seconds: float = 0.0) -> None:
    """Set the service for page scripts (None removes it) and drop values read from the previous service.

    Sections reuse a value that was read for any visitor in the last `fresh_seconds`.
    """
    _Holder.service = service
    _Holder.cache.clear()
    _Holder.reader = None
    if service is not None:
        _Holder.reader = Reader(
            is_database_up=lambda: is_database_up(service),
            find_stale=service.stale_seconds,
            fresh_seconds=fresh_seconds,
        )
    _Holder.read_again_at = -math.inf


def get_service() -> EnhancedDatabaseService:
    """Return the service of this process; raises `RuntimeError` before it was set."""
    if _Holder.service is None:
        raise RuntimeError("no service is set; start the pages with `python -m dashboard`")
    return _Holder.service


def get_cache() -> ShortCache:
    """Return the cache that all views of this process share."""
    return _Holder.cache


def get_reader() -> Reader:
    """Return the reader for the sections of all pages; raises `RuntimeError` before a service was set."""
    if _Holder.reader is None:
        raise RuntimeError("no service is set; start the pages with `python -m dashboard`")
    return _Holder.reader


def read_again(*, clock: Callable[[], float] = time.monotonic) -> None:
    """Drop every kept value that no write invalidates, so that pages read it again.

    Does nothing within `READ_AGAIN_SECONDS` of an earlier call by any visitor: those values are new enough.
    Drops nothing while the database does not answer: pages keep the last known values.
    """
    with _Holder.read_again_lock:
        now = clock()
        if now - _Holder.read_again_at < READ_AGAIN_SECONDS:
            return
        try:
            get_service().invalidate_reports()
        except EchoMarketsError:
            # no error is shown here: each part of the page reports that it cannot be read
            return
        _Holder.read_again_at = now
    _Holder.cache.clear()
    get_reader().read_again()


def count_update() -> None:
    """Count one more rerun of all open pages after a change of the health."""
    _Holder.updates += 1


def get_updates() -> int:
    """Return how many times `count_update` was called."""
    return _Holder.updates


def is_database_up(service: EnhancedDatabaseService) -> bool:
    """Return whether the database answers, within about a second."""
    return service.health().database != "unhealthy"


@contextmanager
def timed_render(page: str) -> Iterator[None]:
    """Record how long the script of the page with this title runs, also when it fails."""
    started = time.perf_counter()
    try:
        yield
    finally:
        if _Holder.service is not None:
            _Holder.service.metrics.observe_render(page.lower(), time.perf_counter() - started)


def watch_sessions(metrics: Metrics) -> None:
    """Publish the number of connected browser sessions as a metric."""

    def publish() -> None:
        if runtime.exists():
            name = "active_sessions"
            found = runtime.get_instance().stats_mgr.get_stats([name]).get(name, ())
            metrics.dashboard_sessions.set(sum(float(getattr(stat, "value", 0)) for stat in found))

    metrics.add_source(publish)
