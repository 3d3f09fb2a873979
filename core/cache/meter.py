"""The online stale-read meter: samples hits and compares them with the database.

Owns the sampling, the queue and the thread that compares; a caller pays one addition, and a
queue that is full drops the sample. Counts only real disagreement: a value that is not served
any more by the time the database has answered was changed in between, and says nothing.

Why that is sound: a writer fences its keys before its COMMIT, so whoever reads what was
committed finds the old value in Redis no more, unless it is stale. Other processes' near tiers
follow the feed, so theirs is stale only when it is still served after the feed's bound.
"""

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from core.cache.codec import ABSENT
from core.cache.read_through import Read
from core.metrics import Metrics

logger = logging.getLogger(__name__)

Tier = Literal["near", "shared"]

# A comparison is one query; more than this many are behind only when the database is slow.
QUEUE_SAMPLES = 100
# A dead feed is noticed within this; until then a near tier may serve what others changed.
FEED_BOUND_SECONDS = 2.0
STOP_SECONDS = 2.0


class _Sample(NamedTuple):
    read: Read[Any]
    tier: Tier
    key: str
    value: Any


class StaleReadMeter:
    """Compares one in `every` hits of a process with the database; thread safe, off at 0."""

    def __init__(
        self,
        every: int,
        *,
        metrics: Metrics,
        find_near: Callable[[str], Any],
        find_shared: Callable[[Read[Any], str], Any],
        feed_bound_seconds: float = FEED_BOUND_SECONDS,
    ) -> None:
        self._every = every
        # what a hit in the near tier asks first: it takes less time than the question of a sample
        self.is_on = every > 0
        self._metrics = metrics
        self._find_near = find_near
        self._find_shared = find_shared
        self._feed_bound_seconds = feed_bound_seconds
        self._hits = itertools.count(1)
        self.renew()

    def renew(self) -> None:
        """Start over, in a forked child, which has no thread of this."""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._samples: queue.Queue[_Sample | None] = queue.Queue(QUEUE_SAMPLES)

    def see(self, tier: Tier, read: Callable[[], Read[Any]], hits: Mapping[str, Any]) -> None:
        """Look at hits of one read; `read` is called only for one that is sampled."""
        if not self._every:
            return
        for key, value in hits.items():
            if next(self._hits) % self._every == 0:
                sample = _Sample(read(), tier, key, value)
                # what ends by the clock differs from a fresh answer without any change
                if not sample.read.kind.is_timed:
                    self._put(sample)

    def close(self) -> None:
        """End the thread; samples that wait are dropped."""
        self._stopping.set()
        thread = self._thread
        if thread is None:
            return
        try:
            self._samples.put_nowait(None)
        except queue.Full:
            logger.debug("the meter sees the end by itself")
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
            except Exception as error:  # the edge of a loop: a loader raises what it likes
                logger.debug("a sample could not be compared: %s", type(error).__name__)
                continue
            self._metrics.count_stale_read_sample(sample.read.kind.name, sample.tier, is_stale=is_stale)

    def _is_stale(self, sample: _Sample) -> bool:
        if _load(sample) == sample.value:
            return False
        if self._find_shared(sample.read, sample.key) == sample.value:
            # unless the row has been given the sampled value again, and the cache filled with it
            return bool(_load(sample) != sample.value)
        if sample.tier == "shared":
            return False
        self._stopping.wait(self._feed_bound_seconds)
        return self._find_near(sample.key) is sample.value and _load(sample) != sample.value


def _load(sample: _Sample) -> Any:
    return sample.read.load([sample.key]).get(sample.key, ABSENT)
