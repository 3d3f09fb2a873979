"""The background work that brings Redis back into use.

Owns one thread, which runs only while there is something to do: the breaker is not closed, or
invalidations are owed. Each step asks Redis and sends what is owed. Sends no commands itself.
"""

import logging
import threading
from collections.abc import Callable

from core.cache.backoff import Backoff
from core.cache.breaker import CircuitBreaker
from core.cache.debts import Debts

logger = logging.getLogger(__name__)

STOP_SECONDS = 2.0
# What another process waits at most between two attempts, and some time for the attempt.
GRACE_SECONDS = 0.1


class Recovery:
    """Asks and pays until all is well; thread safe."""

    def __init__(
        self,
        attempt: Callable[[], bool],
        *,
        breaker: CircuitBreaker,
        debts: Debts,
        on_recovered: Callable[[], None] = lambda: None,
    ) -> None:
        self._attempt = attempt
        self._breaker = breaker
        self._debts = debts
        self._on_recovered = on_recovered
        self.renew()

    def renew(self) -> None:
        """Take new locks, in a forked child, whose parent's thread it does not have."""
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Work in the background until all is well, unless it does already."""
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name="redis-recovery", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End; what is left is the caller's."""
        self._closing.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(STOP_SECONDS)

    def wait(self, seconds: float) -> None:
        """Wait for a while, and no longer once it is closed."""
        self._closing.wait(seconds)

    def _run(self) -> None:
        backoff = Backoff()
        is_done = False
        while not is_done and not self._closing.wait(backoff.next_seconds()):
            try:
                is_done = self._step(backoff)
            except Exception:
                # the edge of a loop: without this thread Redis would never be used again
                logger.exception("an attempt to use Redis again failed")

    def _step(self, backoff: Backoff) -> bool:
        """Make one attempt; return whether all is well."""
        if not self._attempt():
            return False
        if self._breaker.is_closed:
            backoff.reset()
        else:
            self._close_breaker(backoff)
        if self._debts.owe_late():
            return False
        with self._lock:
            if not self._breaker.is_closed or self._debts.is_pending:
                return False
            self._thread = None
        return True

    def _close_breaker(self, backoff: Backoff) -> None:
        """Let changes through, and a while later reads.

        While Redis answered nobody, other processes changed what this one would read. They send it with
        their next attempt, which comes within the longest pause that this process would make.
        """
        self._breaker.half_open()
        self._closing.wait(backoff.longest_next_seconds + GRACE_SECONDS)
        was_open = self._breaker.is_open
        if self._attempt() and self._breaker.close():
            backoff.reset()
            if was_open:
                self._on_recovered()
