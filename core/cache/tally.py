"""Counts what happens to one kind of key, for `cache_stats` and for the metrics.

Owns the counters of this process; in each tier requests = hits + misses + bypasses by
construction. A count is one addition under a lock: the metrics get the sums when they are
published, because a labelled counter costs more than a hit in the near tier.
"""

import threading
from collections import Counter

from core.metrics import Metrics
from core.records import CacheCounts


class Tally:
    """The counters of one kind of key; thread safe."""

    def __init__(self, cache: str, metrics: Metrics) -> None:
        self._cache = cache
        self._metrics = metrics
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Start at zero with a new lock; what was counted before is the parent's."""
        self._lock = threading.Lock()
        self._near_hits = self._near_misses = 0
        self._hits = self._misses = self._refused = self._invalidations = 0
        self._bypasses: Counter[str] = Counter()
        self._published: Counter[str] = Counter()

    def count_near(self, *, hits: int, misses: int) -> None:
        """Count values that the near tier answered for."""
        with self._lock:
            self._near_hits += hits
            self._near_misses += misses

    def count_reads(self, *, hits: int, misses: int) -> None:
        """Count values that Redis answered for."""
        with self._lock:
            self._hits += hits
            self._misses += misses

    def count_bypasses(self, reason: str, count: int) -> None:
        """Count values that were read past Redis."""
        with self._lock:
            self._bypasses[reason] += count

    def count_invalidations(self, count: int) -> None:
        """Count keys dropped because the data changed."""
        with self._lock:
            self._invalidations += count

    def count_refused(self, count: int) -> None:
        """Count fills that came too late."""
        with self._lock:
            self._refused += count

    def publish(self) -> None:
        """Give the metrics what was counted since the last time."""
        with self._lock:
            sums = Counter(
                near_hits=self._near_hits,
                near_misses=self._near_misses,
                hits=self._hits,
                misses=self._misses,
                refused=self._refused,
                invalidations=self._invalidations,
            )
            sums.update({f"bypasses {reason}": count for reason, count in self._bypasses.items()})
            new = sums - self._published
            self._published = sums
        metrics, cache = self._metrics, self._cache
        metrics.count_cache_reads(cache, "near", hits=new["near_hits"], misses=new["near_misses"])
        metrics.count_cache_reads(cache, "shared", hits=new["hits"], misses=new["misses"])
        metrics.count_cache_invalidations(cache, new["invalidations"])
        metrics.count_stale_fills_refused(cache, new["refused"])
        for name, count in new.items():
            if name.startswith("bypasses "):
                metrics.count_cache_bypasses(cache, name.removeprefix("bypasses "), count)

    def snapshot(self) -> CacheCounts:
        """Return the counters at one instant."""
        with self._lock:
            bypasses = self._bypasses.total()
            return CacheCounts(
                requests=self._hits + self._misses + bypasses,
                hits=self._hits,
                misses=self._misses,
                bypasses=bypasses,
                invalidations=self._invalidations,
                stale_fills_refused=self._refused,
                near_requests=self._near_hits + self._near_misses,
                near_hits=self._near_hits,
                near_misses=self._near_misses,
            )
