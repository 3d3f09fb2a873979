"""A circuit breaker: a server that failed is left alone for a while.

Owns the states closed, open and half-open. Makes no calls itself.
Pattern: M. Nygard, Release It!, "Circuit Breaker".
"""

import threading
import time
from collections.abc import Callable

# Short enough to heal well within 5 s; each attempt may cost one timeout.
RETRY_AFTER_SECONDS = 1.0


class CircuitBreaker:
    """Closed lets every call through, open none, half-open one that decides."""

    def __init__(
        self,
        *,
        on_change: Callable[[bool], None],
        retry_after_seconds: float = RETRY_AFTER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_change = on_change
        self._retry_after_seconds = retry_after_seconds
        self._clock = clock
        self.renew()
        self._retry_at: float | None = None
        on_change(False)

    def renew(self) -> None:
        """Take a new lock, in a forked child."""
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether calls are kept away at present."""
        return self._retry_at is not None

    def allows_call(self) -> bool:
        """Say whether to call the server now; when open, True for one caller per interval."""
        if self._retry_at is None:
            return True
        with self._lock:
            if self._retry_at is None:
                return True
            now = self._clock()
            if now < self._retry_at:
                return False
            self._retry_at = now + self._retry_after_seconds
            return True

    def record_failure(self) -> None:
        """Open: the server did not answer."""
        with self._lock:
            was_open = self._retry_at is not None
            self._retry_at = self._clock() + self._retry_after_seconds
        if not was_open:
            self._on_change(True)

    def record_success(self) -> None:
        """Close: the server answered and nothing is owed to it."""
        if self._retry_at is None:
            return
        with self._lock:
            self._retry_at = None
        self._on_change(False)
