"""The circuit breaker of Redis, and the background recovery that closes it again.

- closed: every call goes through;
- suspect: one call was not answered in time. No call goes through, but this does not count as an outage
  until the recovery attempts fail too;
- open: the recovery attempts failed too, or the server refused a command. Nothing is read;
- half-open: a recovery attempt succeeded. Invalidations are sent, but nothing is read until every process
  has had time to send the invalidations that it could not send during the outage.

The thread of `Recovery` makes the attempts, so no caller waits for them. The thread runs only while the
breaker is not closed or the outbox is not empty. Pattern: M. Nygard, Release It!, "Circuit Breaker".
"""

import logging
import threading
from collections.abc import Callable
from enum import Enum

from core.backoff import Backoff
from core.cache.outbox import InvalidationOutbox

logger = logging.getLogger(__name__)

# The breaker opens when one call and then this many recovery attempts fail. A single timeout is not enough,
# because a machine may stall for half a second.
ATTEMPTS = 2
STOP_SECONDS = 2.0
# Duration of a recovery attempt of another process, added to its longest pause between two attempts.
GRACE_SECONDS = 0.1


class _State(Enum):
    CLOSED = 0
    SUSPECT = 1
    OPEN = 2


class CircuitBreaker:
    """The circuit breaker of one Redis server; thread safe."""

    def __init__(self, *, on_change: Callable[[bool], None]) -> None:
        self._on_change = on_change
        self._state = _State.CLOSED
        self._is_half_open = False
        self._is_refused = False
        self._failed_attempts = 0
        self._reason: str | None = None
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Keep the state, create a new lock, and report the state to the metrics of the child process."""
        self._lock = threading.Lock()
        self._on_change(self.is_open)

    @property
    def is_closed(self) -> bool:
        """Whether reads go through."""
        return self._state is _State.CLOSED

    @property
    def is_open(self) -> bool:
        """Whether there is an outage, half-open included."""
        return self._state is _State.OPEN

    @property
    def lets_invalidations_through(self) -> bool:
        """Whether the server answered the last call, even if it refused the command."""
        return self._state is _State.CLOSED or self._is_half_open or self._is_refused

    @property
    def reason(self) -> str | None:
        """Why no read goes through; None when closed."""
        return self._reason

    def record_failure(self, reason: str, *, is_attempt: bool, no_server: bool = False) -> bool:
        """Note that the server did not answer; return whether this failure opened the breaker.

        Calls of callers that fail at the same time count as one failure. `is_attempt`: this was an attempt
        of the recovery thread. `no_server`: the server accepts no connection, so the breaker opens now.
        """
        with self._lock:
            if self._state is _State.CLOSED:
                self._state, self._failed_attempts = _State.SUSPECT, 0
            elif is_attempt:
                self._failed_attempts += 1
            self._is_half_open = self._is_refused = False
            self._reason = reason
            return self._open() if no_server or self._failed_attempts >= ATTEMPTS else False

    def record_refusal(self, reason: str) -> bool:
        """Note that the server refused a command; return whether this is the first refusal in a row."""
        with self._lock:
            is_new = not self._is_refused
            self._is_half_open, self._is_refused = False, True
            self._reason = reason
            self._open()
            return is_new

    def _open(self) -> bool:
        was_open, self._state = self.is_open, _State.OPEN
        if not was_open:
            # still under the lock, so that state changes are reported in the order in which they happen
            self._on_change(True)
        return not was_open

    def half_open(self) -> None:
        """Let invalidations through, but no reads yet, after an attempt to reach Redis succeeded."""
        with self._lock:
            self._is_half_open, self._is_refused = True, False

    def close(self) -> bool:
        """Let every call through if nothing failed since `half_open`; return whether the breaker closed."""
        with self._lock:
            if not self._is_half_open:
                return False
            was_open, self._state = self.is_open, _State.CLOSED
            self._is_half_open = False
            self._reason = None
            if was_open:
                self._on_change(False)
            return True


class Recovery:
    """A thread that checks Redis and flushes the outbox until both succeed; thread safe."""

    def __init__(
        self,
        attempt: Callable[[], bool],
        *,
        breaker: CircuitBreaker,
        outbox: InvalidationOutbox,
        on_recovered: Callable[[], None] = lambda: None,
        find_wait: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Start no thread yet; `find_wait` returns for how many seconds the server must not be read."""
        self._attempt = attempt
        self._breaker = breaker
        self._outbox = outbox
        self._on_recovered = on_recovered
        self._find_wait = find_wait
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, unless it runs already."""
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name="redis-recovery", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread; the caller makes the last attempt."""
        self._closing.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(STOP_SECONDS)

    def wait(self, seconds: float) -> None:
        """Wait for some seconds, or until `close`."""
        self._closing.wait(seconds)

    def _run(self) -> None:
        backoff = Backoff()
        is_done = False
        while not is_done and not self._closing.wait(backoff.next_seconds()):
            try:
                is_done = self._step(backoff)
            except Exception:
                # every error is caught here: without this thread Redis would never be used again
                logger.exception("an attempt to use Redis again failed")

    def _step(self, backoff: Backoff) -> bool:
        """Make one attempt; return whether Redis is in use and the outbox empty."""
        if not self._attempt():
            return False
        if self._breaker.is_closed:
            backoff.reset()
        else:
            self._close_breaker(backoff)
        if self._outbox.add_late():
            return False
        with self._lock:
            if not self._breaker.is_closed or self._outbox.is_pending:
                return False
            self._thread = None
        return True

    def _close_breaker(self, backoff: Backoff) -> None:
        """Let invalidations through, wait, then let reads through.

        During the outage other processes changed rows whose old values Redis still has. They send the
        invalidations with their next recovery attempt, at most one pause of this process later.
        """
        self._breaker.half_open()
        self._closing.wait(max(backoff.longest_next_seconds + GRACE_SECONDS, self._find_wait()))
        was_open = self._breaker.is_open
        if self._attempt() and self._breaker.close():
            backoff.reset()
            if was_open:
                self._on_recovered()
