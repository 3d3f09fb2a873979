"""Fences that a write of many keys sets in a thread, while its statements run.

Owns the decision whether a thread is worth it, and whether its fences still hold at the COMMIT.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import overload

from core.cache import NO_TOKEN, Cache

# Setting fewer fences takes less time than starting a thread.
LEAST_KEYS_FENCED_AHEAD = 500
# A fence outlasts the longest possible statement, COMMIT included, by at least this much.
FRESH_SECONDS = 2.0


class LazyKeys(Sequence[str]):
    """Keys that are built when first needed: building thousands takes as long as fencing them."""

    def __init__(self, count: int, build: Callable[[], list[str]]) -> None:
        self._count = count
        self._build = build
        self._lock = threading.Lock()
        self._keys: list[str] | None = None

    def __len__(self) -> int:
        """Return the number of keys without building them."""
        return self._count

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        """Return the key at an index, or the keys of a slice."""
        return self._find()[place]

    def __iter__(self) -> Iterator[str]:
        """Yield every key."""
        return iter(self._find())

    def _find(self) -> list[str]:
        with self._lock:
            if self._keys is None:
                self._keys = self._build()
            return self._keys


class FenceAhead:
    """The fences that one transaction sets in a thread while its statements run.

    Redis takes as long to set thousands of fences as PostgreSQL takes to write a good part of the rows, and
    the two are independent until the COMMIT. If there are few keys, no thread is started: the caller fences
    them at the end of the transaction.
    """

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
        """Start the thread that sets the fences, if there are enough keys."""
        if len(self._keys) < LEAST_KEYS_FENCED_AHEAD:
            return
        self.token = self._cache.new_fence()
        self._started_at = self._clock()
        self._thread = threading.Thread(target=self._run, name="fence-ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._cache.fence(self._keys, self.token, is_awaited=True)
        self._is_done = True

    def finish(self, more: Sequence[str]) -> Sequence[str]:
        """Wait for the thread; return the keys, including `more`, that still have to be fenced."""
        if self._thread is None:
            return [*self._keys, *more]
        self._thread.join()
        if not self._is_done or self._clock() - self._started_at > FRESH_SECONDS:
            # a fence that expires before the COMMIT has ended protects nothing
            return [*self._keys, *more]
        fenced = set(self._keys) if more else ()
        return [key for key in more if key not in fenced]

    def cancel(self) -> Sequence[str]:
        """Wait for the thread; return the keys that it fenced."""
        if self._thread is None:
            return ()
        self._thread.join()
        return self._keys
