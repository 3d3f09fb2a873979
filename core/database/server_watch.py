"""Watches servers: each has a thread that asks it the same question again and again, beside the pools.

Owns the threads and their pauses, and what a primary said of its positions. A caller never waits for a watch.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg2

from core.database.bounded_connection import BoundedConnection, make_connector
from core.database.positions import History, Position, parse_history, parse_position
from core.settings import Settings

logger = logging.getLogger(__name__)

SAMPLE_SECONDS = 0.25
# A server that does not answer is noticed after this time.
ANSWER_SECONDS = 1.0
# How old what a replica answers may be. A fence outlasts its COMMIT by more than twice this time, so whoever
# finds the fence of a writer that died expired is answered by a replica that has the COMMIT.
FLOOR_SECONDS = 1.5
# Longer than any lag that matters to a person.
REMEMBERED_SECONDS = 60.0


class ServerWatch:
    """Asks one server one question every quarter of a second until it is stopped."""

    def __init__(
        self,
        settings: Settings,
        question: str,
        *,
        application_name: str,
        on_answer: Callable[[float, tuple[Any, ...]], None],
        on_failure: Callable[[psycopg2.Error], None],
    ) -> None:
        """`on_answer` gets the time when the server was asked, and the row."""
        self._settings = settings
        self._question = question
        self._application_name = application_name
        self._on_answer = on_answer
        self._on_failure = on_failure
        self._connector = make_connector(settings, application_name, limit_seconds=ANSWER_SECONDS)
        self._stopping = threading.Event()
        self._connection: BoundedConnection | None = None

    def start(self) -> None:
        """Begin in a thread."""
        threading.Thread(target=self._run, name="server-watch", daemon=True).start()

    def stop(self) -> None:
        """End soon; waits for nothing."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._ask()
            except Exception:
                # the edge of a loop: without this thread no replica would be used again
                logger.exception("watching a server failed")
            self._stopping.wait(SAMPLE_SECONDS)
        self._close()

    def _ask(self) -> None:
        asked_at = time.monotonic()
        try:
            if self._connection is None:
                self._connection = BoundedConnection(
                    self._settings,
                    self._application_name,
                    limit_seconds=ANSWER_SECONDS,
                    connector=self._connector,
                )
                asked_at = time.monotonic()
            row = self._connection.execute_sql(self._question).fetchone()
        except psycopg2.Error as error:
            self._close()
            self._on_failure(error)
        else:
            self._on_answer(asked_at, row)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Sample(NamedTuple):
    asked_at: float
    position: Position


class PrimaryPositions:
    """The positions that a primary reported during the last minute, of one history; thread safe."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.history: History | None = None
        """None until the primary has answered."""
        self._samples: deque[_Sample] = deque()

    def note_answer(self, asked_at: float, row: tuple[Any, ...]) -> None:
        """Note the row of `SELECT_HISTORY`: every commit from before `asked_at` is at or before its position.

        A server in recovery is no primary, and says no position.
        """
        position = row[0]
        with self._lock:
            if position is None:
                self._forget()
                return
            history = parse_history(row)
            if history != self.history:
                self._forget()
                self.history = history
            self._samples.append(_Sample(asked_at, parse_position(position)))
            while self._samples[0].asked_at < asked_at - REMEMBERED_SECONDS:
                self._samples.popleft()

    def note_failure(self, error: psycopg2.Error) -> None:
        """Note nothing: without new samples the last ones become too old."""
        logger.debug("the primary did not say its position: %s", type(error).__name__)

    def _forget(self) -> None:
        self.history = None
        self._samples.clear()

    def find_floor(self) -> Position | None:
        """Return the oldest position that every read must have seen, or None when none is young enough."""
        oldest = self._clock() - FLOOR_SECONDS
        with self._lock:
            floor = None
            for sample in reversed(self._samples):
                if sample.asked_at < oldest:
                    break
                floor = sample.position
            return floor

    def measure_lag(self, position: Position) -> float:
        """Return by how many seconds a replica that has replayed up to a position is behind, at least."""
        with self._lock:
            missing = None
            for sample in reversed(self._samples):
                if sample.position <= position:
                    break
                missing = sample
        return 0.0 if missing is None else max(0.0, self._clock() - missing.asked_at)

    def reset_after_fork(self) -> None:
        """Take a new lock; the parent's samples stay valid."""
        self._lock = threading.Lock()
