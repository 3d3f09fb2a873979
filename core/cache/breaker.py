"""The circuit breaker of Redis, and the background thread that closes the breaker again.

The states of the breaker:

- closed: every command is sent to Redis;
- suspect: one command was not answered in time. No command is sent, but this is not reported as an outage
  yet;
- open: the recovery attempts failed too, or the server refused a command. Nothing is read from Redis.
  Callers send invalidations only after a refusal, because that server still answers;
- half-open: a recovery attempt succeeded. Invalidations are sent, but nothing is read yet: every process
  first needs time to send the invalidations that it could not send during the outage.

The thread of `Recovery` makes the recovery attempts, so no caller waits for them. The thread runs only while
the breaker is not closed or the outbox is not empty. Source: M. Nygard, Release It!, "Circuit Breaker".
"""

import logging
import threading
from collections.abc import Callable
from enum import Enum

from core.backoff import Backoff
from core.cache.outbox import InvalidationOutbox

logger = logging.getLogger(__name__)

# The breaker opens after one failed command and this many failed recovery attempts. One timeout alone does
# not open it, because a machine may stall for half a second.
ATTEMPTS = 2
# How long a recovery attempt of another process may take. `Recovery` adds this time to its wait before Redis
# is read again.
GRACE_SECONDS = 0.1
# How long `close` waits for the thread.
STOP_SECONDS = 2.0


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
        """Whether Redis may be read."""
        return self._state is _State.CLOSED

    @property
    def is_open(self) -> bool:
        """Whether there is an outage. It begins when the breaker opens, and ends when the breaker closes."""
        return self._state is _State.OPEN

    @property
    def allows_invalidations(self) -> bool:
        """Whether invalidations may be sent. They may if the server answers, even with a refusal."""
        return self._state is _State.CLOSED or self._is_half_open or self._is_refused

    @property
    def reason(self) -> str | None:
        """Why Redis is not read: the message of the last failure. None while the breaker is closed."""
        return self._reason

    def record_failure(self, reason: str, *, is_attempt: bool, no_server: bool = False) -> bool:
        """Record that the server did not answer. Return whether this failure opened the breaker.

        The failures of callers count once, even if many callers fail at the same time. `is_attempt` marks the
        failure of a recovery attempt. `no_server` means that the server accepts no connection; it opens the
        breaker at once.
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
        """Open the breaker after a refused command.

        Returns False if the breaker is already open because of an earlier refusal, else True.
        """
        with self._lock:
            is_new = not self._is_refused
            self._is_half_open, self._is_refused = False, True
            self._reason = reason
            self._open()
            return is_new

    def _open(self) -> bool:
        was_open, self._state = self.is_open, _State.OPEN
        if not was_open:
            # the caller holds the lock, so that changes of the state are reported in their order
            self._on_change(True)
        return not was_open

    def half_open(self) -> None:
        """Allow invalidations but no reads, because a recovery attempt succeeded."""
        with self._lock:
            self._is_half_open, self._is_refused = True, False

    def close(self) -> bool:
        """Close the breaker if nothing has failed since `half_open`. Return whether the breaker closed."""
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
    """A background thread that calls `attempt` until Redis is in use and the outbox is empty; thread safe."""

    def __init__(
        self,
        attempt: Callable[[], bool],
        *,
        breaker: CircuitBreaker,
        outbox: InvalidationOutbox,
        on_recovered: Callable[[], None] = lambda: None,
        find_wait: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Start no thread yet.

        `attempt` makes one recovery attempt and returns whether it succeeded. `find_wait` returns for how
        many seconds Redis must not be read yet.
        """
        self._attempt = attempt
        self._breaker = breaker
        self._outbox = outbox
        self._on_recovered = on_recovered
        self._find_wait = find_wait
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread if it is not running."""
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name="redis-recovery", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Tell the thread to end, and wait for it."""
        self._closing.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(STOP_SECONDS)

    def wait(self, seconds: float) -> None:
        """Wait for `seconds`, or until `close` is called."""
        self._closing.wait(seconds)

    def _run(self) -> None:
        backoff = Backoff()
        is_done = False
        while not is_done and not self._closing.wait(backoff.next_seconds()):
            try:
                is_done = self._step(backoff)
            except Exception:
                # every error is caught here: Redis would not be used again if this thread ended
                logger.exception("an attempt to use Redis again failed")

    def _step(self, backoff: Backoff) -> bool:
        """Make one recovery attempt. Return whether the thread can end."""
        if not self._attempt():
            return False
        if self._breaker.is_closed:
            backoff.reset()
        else:
            self._close_breaker(backoff)
        if self._outbox.add_unconfirmed_fences():
            return False
        with self._lock:
            if not self._breaker.is_closed or self._outbox.is_pending:
                return False
            self._thread = None
        return True

    def _close_breaker(self, backoff: Backoff) -> None:
        """Allow invalidations, wait, then allow reads.

        During the outage other processes may have changed rows whose old values Redis still has. Each process
        sends its waiting invalidations in its next recovery attempt. The wait is long enough for this: it is
        at least the longest pause before a recovery attempt, plus `GRACE_SECONDS`.
        """
        self._breaker.half_open()
        self._closing.wait(max(backoff.max_next_seconds + GRACE_SECONDS, self._find_wait()))
        was_open = self._breaker.is_open
        if self._attempt() and self._breaker.close():
            backoff.reset()
            if was_open:
                self._on_recovered()
