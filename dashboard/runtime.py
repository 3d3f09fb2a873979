"""Holds the objects that all page scripts of a process share: the service, a cache, and the section reader.

The server sets the service when it starts; a test sets its own. This module never opens or closes the
service. The objects are module state, because Streamlit runs the scripts without arguments.
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
"""How long `ShortCache` keeps a value.

Visitors do not notice this delay, but many of them share one read.
"""

CACHE_ENTRIES = 256
"""Maximum number of values in `ShortCache`. A value has at most some hundred rows."""


READ_AGAIN_SECONDS = 5.0
"""Minimum time between two calls of `read_again` that have an effect.

Reading all values again is expensive: the reports of a large game take seconds.
"""


class ShortCache:
    """Cache for small reads that pages repeat and that the service does not cache. Thread safe.

    A value expires `seconds` after its read began. If there are more than `entries` values, the least
    recently used one is evicted. There is no single-flight: threads that miss the same key at the same time
    all read it, because these reads are short.
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
    """Set the service for page scripts (None removes it), and forget the values read from the previous one.

    If a value was read for any visitor in the last `fresh_seconds`, sections do not read it again.
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
    """Return the service of this process. Raises `RuntimeError` if no service is set."""
    if _Holder.service is None:
        raise RuntimeError("no service is set; start the pages with `python -m dashboard`")
    return _Holder.service


def get_cache() -> ShortCache:
    """Return the short-lived cache that all page scripts of this process share."""
    return _Holder.cache


def get_reader() -> Reader:
    """Return the reader that loads the sections of all pages. Raises `RuntimeError` if no service is set."""
    if _Holder.reader is None:
        raise RuntimeError("no service is set; start the pages with `python -m dashboard`")
    return _Holder.reader


def read_again(*, clock: Callable[[], float] = time.monotonic) -> None:
    """Make all pages read every report and every section again; this is what the Refresh button calls.

    Does nothing if any visitor called it in the last `READ_AGAIN_SECONDS`: the values are new enough. If the
    database does not answer, all values stay in the caches, so that pages can show them.
    """
    with _Holder.read_again_lock:
        now = clock()
        if now - _Holder.read_again_at < READ_AGAIN_SECONDS:
            return
        try:
            get_service().invalidate_reports()
        except EchoMarketsError:
            # no error is shown here, because each section of the page shows its own
            return
        _Holder.read_again_at = now
    _Holder.cache.clear()
    get_reader().read_again()


def count_update() -> None:
    """Count a change of the health, after which all open pages run again."""
    _Holder.updates += 1


def get_updates() -> int:
    """Return how often `count_update` was called. A page compares it with its last run."""
    return _Holder.updates


def is_database_up(service: EnhancedDatabaseService) -> bool:
    """Check the health once, which takes at most about a second; return whether the database answers."""
    return service.health().database != "unhealthy"


@contextmanager
def timed_render(page: str) -> Iterator[None]:
    """Context manager: record how long the script of a page runs, even if it fails. `page` is its title."""
    started = time.perf_counter()
    try:
        yield
    finally:
        if _Holder.service is not None:
            _Holder.service.metrics.observe_render(page.lower(), time.perf_counter() - started)


def watch_sessions(metrics: Metrics) -> None:
    """Set the metric of connected browser sessions each time that metrics are collected."""

    def publish() -> None:
        if runtime.exists():
            name = "active_sessions"
            found = runtime.get_instance().stats_mgr.get_stats([name]).get(name, ())
            metrics.dashboard_sessions.set(sum(float(getattr(stat, "value", 0)) for stat in found))

    metrics.add_source(publish)
