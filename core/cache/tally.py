"""Counts what happens to one kind of key, for the metrics and for `cache_stats`.

Owns the counters of this process; requests = hits + misses + bypasses by construction.
"""

import threading

from core.metrics import Metrics
from core.records import CacheCounts


class Tally:
    """The counters of one kind of key; thread safe."""

    def __init__(self, cache: str, metrics: Metrics) -> None:
        self._cache = cache
        self._metrics = metrics
        self._lock = threading.Lock()
        self._hits = self._misses = self._bypasses = 0
        self._invalidations = self._refused = 0

    def count_reads(self, *, hits: int, misses: int) -> None:
        """Count values that the cache answered for."""
        with self._lock:
            self._hits += hits
            self._misses += misses
        self._metrics.count_cache_reads(self._cache, hits=hits, misses=misses)

    def count_bypasses(self, reason: str, count: int) -> None:
        """Count values that were read past the cache."""
        with self._lock:
            self._bypasses += count
        self._metrics.count_cache_bypasses(self._cache, reason, count)

    def count_invalidations(self, count: int) -> None:
        """Count keys dropped because the data changed."""
        with self._lock:
            self._invalidations += count
        self._metrics.count_cache_invalidations(self._cache, count)

    def count_refused(self, count: int) -> None:
        """Count fills that came too late."""
        if not count:
            return
        with self._lock:
            self._refused += count
        self._metrics.count_stale_fills_refused(self._cache, count)

    def snapshot(self) -> CacheCounts:
        """Return the counters at one instant."""
        with self._lock:
            return CacheCounts(
                requests=self._hits + self._misses + self._bypasses,
                hits=self._hits,
                misses=self._misses,
                bypasses=self._bypasses,
                invalidations=self._invalidations,
                stale_fills_refused=self._refused,
            )
