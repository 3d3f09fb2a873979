"""A circuit breaker: a server that failed is left alone until it has proved itself.

Owns the states and what is said of them. Makes no calls itself: attempts are made in the background
(`core.cache.recovery`), so no caller pays for them.

- closed: every call goes through;
- suspect: the server was late once. No call goes through, and nobody is told of an outage: one late
  answer is none. Attempts decide;
- open: attempts failed too, or the server refused. No read goes through;
- half-open: an attempt worked. What changed is sent, nothing is read yet, until everybody has had
  the time to send what changed meanwhile.

Pattern: M. Nygard, Release It!, "Circuit Breaker".
"""

import threading
from collections.abc import Callable
from enum import Enum

# A call and this many attempts after it: a machine that stops for half a second is no outage.
ATTEMPTS = 2


class _State(Enum):
    CLOSED = 0
    SUSPECT = 1
    OPEN = 2


class CircuitBreaker:
    """The state of one server; thread safe."""

    def __init__(self, *, on_change: Callable[[bool], None]) -> None:
        self._on_change = on_change
        self._state = _State.CLOSED
        self._is_half_open = False
        self._is_refused = False
        self._failed_attempts = 0
        self._reason: str | None = None
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Take a new lock and tell the state, which the child's metrics do not have."""
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
    def is_half_open(self) -> bool:
        """Whether an attempt worked since the last failure."""
        return self._is_half_open

    @property
    def lets_changes_through(self) -> bool:
        """Whether the server answers, as far as is known: it may do less than it should."""
        return self._state is _State.CLOSED or self._is_half_open or self._is_refused

    @property
    def reason(self) -> str | None:
        """Why no read goes through; None when closed."""
        return self._reason

    def record_failure(self, reason: str, *, is_attempt: bool, is_certain: bool = False) -> bool:
        """Note that the server did not answer; return whether that opened the breaker.

        Calls that were under way count once altogether. `is_certain`: there is no server.
        """
        with self._lock:
            if self._state is _State.CLOSED:
                self._state, self._failed_attempts = _State.SUSPECT, 0
            elif is_attempt:
                self._failed_attempts += 1
            self._is_half_open = self._is_refused = False
            self._reason = reason
            return self._open() if is_certain or self._failed_attempts >= ATTEMPTS else False

    def record_refusal(self, reason: str) -> bool:
        """Note that the server answered and will not do it; return whether that is news."""
        with self._lock:
            is_news = not self._is_refused
            self._is_half_open, self._is_refused = False, True
            self._reason = reason
            self._open()
            return is_news

    def _open(self) -> bool:
        was_open, self._state = self.is_open, _State.OPEN
        if not was_open:
            # under the lock, so that the last state is the last that is told
            self._on_change(True)
        return not was_open

    def half_open(self) -> None:
        """Let changes through: an attempt worked."""
        with self._lock:
            self._is_half_open, self._is_refused = True, False

    def close(self) -> bool:
        """Let every call through if nothing failed since `half_open`; return whether it does."""
        with self._lock:
            if not self._is_half_open:
                return False
            was_open, self._state = self.is_open, _State.CLOSED
            self._is_half_open = False
            self._reason = None
            if was_open:
                self._on_change(False)
            return True
