"""Measures how far replicas are behind the primary, by their LSNs.

A `ServerWatch` asks the primary for its LSN several times a second. This module keeps these samples for
a minute. It computes from them the lag of a replica, and the oldest LSN at which a replica may still
answer reads. Sends no query itself.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg2

from core.database.read_consistency import LogTimeline, Lsn, parse_log_timeline, parse_lsn

logger = logging.getLogger(__name__)

# Maximum age of the data that a replica may return. It must be shorter than FENCE_MARGIN_MILLISECONDS:
# after a COMMIT the fence of a cache key stays for at least this margin. If a writer dies after its COMMIT,
# the cache key can be filled only when the fence has expired. By then every replica that may be read has
# replayed the COMMIT.
MAX_LAG_SECONDS = 1.5
# How long samples are kept. A replica that is further behind is reported as about this far behind.
REMEMBERED_SECONDS = 60.0


class _Sample(NamedTuple):
    asked_at: float
    lsn: Lsn


class PrimaryLsns:
    """The LSNs that a primary reported during the last minute, on one timeline; thread safe."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.log_timeline: LogTimeline | None = None
        """The timeline of the primary; None until the primary has answered."""
        self._samples: deque[_Sample] = deque()

    def record_answer(self, asked_at: float, row: tuple[Any, ...]) -> None:
        """Keep the LSN in a row of `SELECT_LOG_TIMELINE`, for which the server was asked at `asked_at`.

        Every commit from before `asked_at` is at or before this LSN. A row without an LSN comes from
        a server in recovery, which is not a primary. Then, and on a new timeline, the older samples are
        dropped.
        """
        lsn = row[0]
        with self._lock:
            if lsn is None:
                self._forget()
                return
            log_timeline = parse_log_timeline(row)
            if log_timeline != self.log_timeline:
                self._forget()
                self.log_timeline = log_timeline
            self._samples.append(_Sample(asked_at, parse_lsn(lsn)))
            while self._samples[0].asked_at < asked_at - REMEMBERED_SECONDS:
                self._samples.popleft()

    def record_failure(self, error: psycopg2.Error) -> None:
        """Only log the failure. Without new samples, `find_floor` returns None after MAX_LAG_SECONDS."""
        logger.debug("the primary did not report its LSN: %s", type(error).__name__)

    def _forget(self) -> None:
        self.log_timeline = None
        self._samples.clear()

    def find_floor(self) -> Lsn | None:
        """Return the LSN that a replica must have replayed before it may answer any read.

        This is the oldest sample of the last MAX_LAG_SECONDS. Returns None if there is no such sample.
        """
        oldest = self._clock() - MAX_LAG_SECONDS
        with self._lock:
            floor = None
            for sample in reversed(self._samples):
                if sample.asked_at < oldest:
                    break
                floor = sample.lsn
            return floor

    def measure_lag(self, lsn: Lsn) -> float:
        """Return a lower bound in seconds for the lag of a replica that has replayed up to `lsn`."""
        with self._lock:
            missing = None
            for sample in reversed(self._samples):
                if sample.lsn <= lsn:
                    break
                missing = sample
        return 0.0 if missing is None else max(0.0, self._clock() - missing.asked_at)

    def reset_after_fork(self) -> None:
        """Create a new lock. The samples of the parent stay valid."""
        self._lock = threading.Lock()
