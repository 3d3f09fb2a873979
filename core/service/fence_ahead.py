"""Fences of many keys, set while the statements of a transaction run.

Owns the thread that sets them. Redis takes as long for thousands of fences as PostgreSQL does
for a good part of the rows, and neither needs the other before the COMMIT.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import overload

from core.cache import NO_TOKEN, Cache

# Fewer fences take less time than a thread.
LEAST_KEYS = 500
# A fence lasts this much longer than any single statement, COMMIT included, with some to spare.
FRESH_SECONDS = 2.0


class KeysToName(Sequence[str]):
    """Keys that are named when they are first asked for: thousands take as long as to fence them."""

    def __init__(self, count: int, name: Callable[[], list[str]]) -> None:
        self._count = count
        self._name = name
        self._lock = threading.Lock()
        self._keys: list[str] | None = None

    def __len__(self) -> int:
        """Return how many there are, without naming them."""
        return self._count

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        """Return the key, or the keys, at a place."""
        return self._find()[place]

    def __iter__(self) -> Iterator[str]:
        """Yield every key."""
        return iter(self._find())

    def _find(self) -> list[str]:
        with self._lock:
            if self._keys is None:
                self._keys = self._name()
            return self._keys


class FenceAhead:
    """The fences that one transaction sets ahead; a few keys are left to its end."""

    def __init__(
        self, cache: Cache, keys: Sequence[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cache = cache
        self._keys = keys
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._started_at = 0.0
        self._is_done = False
        self.token = NO_TOKEN

    def start(self) -> None:
        """Begin to set the fences."""
        if len(self._keys) < LEAST_KEYS:
            return
        self.token = self._cache.new_fence()
        self._started_at = self._clock()
        self._thread = threading.Thread(target=self._run, name="fence-ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._cache.fence(self._keys, self.token, is_awaited=True)
        self._is_done = True

    def finish(self, more: Sequence[str]) -> Sequence[str]:
        """Wait for the fences; return what of the keys, and of `more`, is still to be fenced."""
        if self._thread is None:
            return [*self._keys, *more]
        self._thread.join()
        if not self._is_done or self._clock() - self._started_at > FRESH_SECONDS:
            # a fence that runs out before the COMMIT has ended protects nothing
            return [*self._keys, *more]
        fenced = set(self._keys) if more else ()
        return [key for key in more if key not in fenced]

    def give_up(self) -> Sequence[str]:
        """Wait for the fences; return the keys that have one."""
        if self._thread is None:
            return ()
        self._thread.join()
        return self._keys
