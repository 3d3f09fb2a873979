"""The positions (LSN) that the primary reported during the last minute; a `ServerWatch` samples them.

Owns the two values that are computed from the samples: the oldest position at which a replica may answer
reads, and the lag of a replica. Sends no query itself.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg2

from core.database.log_positions import LogTimeline, Position, parse_log_timeline, parse_position

logger = logging.getLogger(__name__)

# Maximum age of the data that a replica may return. A fence outlasts its COMMIT by more than twice this time,
# so a reader that comes after the fence of a dead writer has expired gets its answer from a replica that has
# replayed the COMMIT.
FLOOR_SECONDS = 1.5
# How long samples are kept. A larger lag is reported as this lag, which is large enough for an operator.
REMEMBERED_SECONDS = 60.0


class _Sample(NamedTuple):
    asked_at: float
    position: Position


class PrimaryPositions:
    """The positions that a primary reported during the last minute, on one timeline; thread safe."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.log_timeline: LogTimeline | None = None
        """The timeline of the primary; None until the primary has answered."""
        self._samples: deque[_Sample] = deque()

    def note_answer(self, asked_at: float, row: tuple[Any, ...]) -> None:
        """Note a row of `SELECT_LOG_TIMELINE`: its position covers every commit from before `asked_at`.

        If the server reports no position, it is in recovery, so it is not the primary: drop all samples.
        """
        position = row[0]
        with self._lock:
            if position is None:
                self._forget()
                return
            log_timeline = parse_log_timeline(row)
            if log_timeline != self.log_timeline:
                self._forget()
                self.log_timeline = log_timeline
            self._samples.append(_Sample(asked_at, parse_position(position)))
            while self._samples[0].asked_at < asked_at - REMEMBERED_SECONDS:
                self._samples.popleft()

    def note_failure(self, error: psycopg2.Error) -> None:
        """Log the failure only: without new samples `find_floor` returns None after FLOOR_SECONDS."""
        logger.debug("the primary did not say its position: %s", type(error).__name__)

    def _forget(self) -> None:
        self.log_timeline = None
        self._samples.clear()

    def find_floor(self) -> Position | None:
        """Return the lowest position that a replica must have replayed for any read.

        This is the first sample of the last FLOOR_SECONDS; None if there is no such sample.
        """
        oldest = self._clock() - FLOOR_SECONDS
        with self._lock:
            floor = None
            for sample in reversed(self._samples):
                if sample.asked_at < oldest:
                    break
                floor = sample.position
            return floor

    def measure_lag(self, position: Position) -> float:
        """Return the lag in seconds, at least, of a replica that has replayed up to a position."""
        with self._lock:
            missing = None
            for sample in reversed(self._samples):
                if sample.position <= position:
                    break
                missing = sample
        return 0.0 if missing is None else max(0.0, self._clock() - missing.asked_at)

    def reset_after_fork(self) -> None:
        """Create a new lock; the parent's samples stay valid."""
        self._lock = threading.Lock()
