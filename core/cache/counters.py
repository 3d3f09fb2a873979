"""Counters of the reads of one process, by kind of cache key, and a sampler that looks for stale reads.

The number of requests is not counted, but calculated: for Redis it is hits + misses + bypasses, for the near
cache it is hits + misses. A count is one addition under a lock. The metrics get the sums when `publish` is
called, because incrementing a counter with a label costs more than a hit in the near cache.

`StaleReadSampler` compares some of the hits with the database, in its own thread. If the values differ, the
row may have been changed after the hit. So the sampler asks the cache again: if the cache does not serve the
sampled value any more, the hit does not count as stale. This rule gives no false alarm, because a writer
fences its keys before its COMMIT: the old value has left Redis before the row is committed. A near cache
drops a changed value only when its invalidation feed reports the change, so a hit there counts as stale only
if the value is still served `feed_bound_seconds` later.
"""

import itertools
import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from core.cache.codec import ABSENT
from core.cache.kinds import Read
from core.cache.lsn_slots import LoadAfter, load_anywhere
from core.cache.near import NearCache
from core.cache.shared import SharedCache
from core.metrics import Metrics
from core.records import CacheCounts

logger = logging.getLogger(__name__)

Tier = Literal["near", "shared"]

# Maximum number of samples that wait for their comparison; further samples are dropped. A comparison takes
# one query or more, so the queue is full only if the database is slow.
QUEUE_SAMPLES = 100
# A dead invalidation feed is noticed within this time. Until then the near cache may serve outdated values.
FEED_BOUND_SECONDS = 2.0
# How long `close` waits for the thread.
STOP_SECONDS = 2.0


class CacheCounters:
    """The counters of one kind of key; thread safe."""

    def __init__(self, cache: str, metrics: Metrics) -> None:
        self._cache = cache
        self._metrics = metrics
        self._lock = threading.Lock()
        self._near_hits = self._near_misses = 0
        self._hits = self._misses = self._refused = self._invalidations = 0
        self._bypasses: Counter[str] = Counter()
        self._published: Counter[str] = Counter()

    def count_near(self, *, hits: int, misses: int) -> None:
        """Count hits and misses in the near cache."""
        with self._lock:
            self._near_hits += hits
            self._near_misses += misses

    def count_reads(self, *, hits: int, misses: int) -> None:
        """Count hits and misses in Redis."""
        with self._lock:
            self._hits += hits
            self._misses += misses

    def count_bypasses(self, reason: str, count: int) -> None:
        """Count values that were loaded without asking Redis. `reason` becomes a label of the metric."""
        with self._lock:
            self._bypasses[reason] += count

    def count_invalidations(self, count: int) -> None:
        """Count keys that were invalidated."""
        with self._lock:
            self._invalidations += count

    def count_refused(self, count: int) -> None:
        """Count fills that Redis refused because their lease or version was gone."""
        with self._lock:
            self._refused += count

    def publish(self) -> None:
        """Add the counts since the last call of `publish` to the metrics."""
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
        """Return the current values of all counters, read together under the lock."""
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


class _Sample(NamedTuple):
    read: Read[Any]
    tier: Tier
    key: str
    value: Any


class StaleReadSampler:
    """Compares one in `every` hits with the database; thread safe. `every=0` turns the sampler off."""

    def __init__(
        self,
        every: int,
        *,
        metrics: Metrics,
        near: NearCache,
        shared: SharedCache | None,
        load_after: LoadAfter = load_anywhere,
        feed_bound_seconds: float = FEED_BOUND_SECONDS,
    ) -> None:
        self._every = every
        # an attribute instead of a property, because each hit in the near cache reads it
        self.is_on = every > 0
        self._metrics = metrics
        self._near = near
        self._shared = shared
        self._load_after = load_after
        self._feed_bound_seconds = feed_bound_seconds
        self._hits = itertools.count(1)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._samples: queue.Queue[_Sample | None] = queue.Queue(QUEUE_SAMPLES)

    def sample(self, tier: Tier, make_read: Callable[[], Read[Any]], hits: Mapping[str, Any]) -> None:
        """Queue one in `every` of these hits for comparison. `make_read` is called only for queued hits."""
        if not self.is_on:
            return
        for key, value in hits.items():
            if next(self._hits) % self._every == 0:
                sample = _Sample(make_read(), tier, key, value)
                # skip a time-dependent value: it may differ from a fresh one although no row was changed
                if not sample.read.cached.time_dependent:
                    self._put(sample)

    def close(self) -> None:
        """End the thread. Samples that wait for their comparison are dropped."""
        self._stopping.set()
        thread = self._thread
        if thread is None:
            return
        try:
            self._samples.put_nowait(None)
        except queue.Full:
            logger.debug("the queue is full; the sampler stops after its present comparison")
        thread.join(STOP_SECONDS)

    def _put(self, sample: _Sample) -> None:
        if self._thread is None:
            self._start()
        try:
            self._samples.put_nowait(sample)
        except queue.Full:
            logger.debug("a sample is dropped: %d are waiting", QUEUE_SAMPLES)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._run, name="stale-reads", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            sample = self._samples.get()
            if sample is None:
                return
            try:
                is_stale = self._is_stale(sample)
            except Exception as error:  # every error is caught here: a loader may raise any exception
                logger.debug("a sample could not be compared: %s", type(error).__name__)
                continue
            self._metrics.count_stale_read_sample(sample.read.cached.name, sample.tier, is_stale=is_stale)

    def _is_stale(self, sample: _Sample) -> bool:
        if self._load(sample) == sample.value:
            return False
        if self._shared is not None and self._shared.peek(sample.read, sample.key) == sample.value:
            # Redis still serves the value. Compare again: the row may have got this value again meanwhile.
            return bool(self._load(sample) != sample.value)
        if sample.tier == "shared":
            return False
        self._stopping.wait(self._feed_bound_seconds)
        return self._near.get(sample.key) is sample.value and self._load(sample) != sample.value

    def _load(self, sample: _Sample) -> Any:
        return self._load_after(None, sample.read.load, [sample.key]).get(sample.key, ABSENT)
