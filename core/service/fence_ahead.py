"""Fences of many keys, set while the statements of a transaction run.

Owns the thread that sets them. Redis takes as long for thousands of fences as PostgreSQL does
for a good part of the rows, and neither needs the other before the COMMIT.
"""

import threading
import time
from collections.abc import Callable, Sequence

from core.cache import NO_TOKEN, Cache, CacheKind

Key = tuple[CacheKind, str]

# Fewer fences take less time than a thread.
LEAST_KEYS = 500
# A fence lasts this much longer than any single statement, COMMIT included, with some to spare.
FRESH_SECONDS = 2.0


class FenceAhead:
    """The fences that one transaction sets ahead; a few keys are left to its end."""

    def __init__(
        self, cache: Cache, keys: Sequence[Key], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cache = cache
        self._keys = keys if len(keys) >= LEAST_KEYS else ()
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._started_at = 0.0
        self._is_done = False
        self.token = NO_TOKEN

    def start(self) -> None:
        """Begin to set the fences."""
        if not self._keys:
            return
        self.token = self._cache.new_fence()
        self._started_at = self._clock()
        self._thread = threading.Thread(target=self._run, name="fence-ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._cache.fence(self._keys, self.token, is_awaited=True)
        self._is_done = True

    def finish(self, keys: Sequence[Key]) -> Sequence[Key]:
        """Wait for the fences; return those of the keys that are still to be fenced."""
        if self._thread is None:
            return keys
        self._thread.join()
        if not self._is_done or self._clock() - self._started_at > FRESH_SECONDS:
            # a fence that runs out before the COMMIT has ended protects nothing
            return keys
        fenced = set(self._keys)
        return [key for key in keys if key not in fenced]

    def give_up(self) -> Sequence[Key]:
        """Wait for the fences; return the keys that have one."""
        if self._thread is None:
            return ()
        self._thread.join()
        return self._keys
