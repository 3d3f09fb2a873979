"""Sets the fences on the cache keys of a large write in a thread, while the statements of the write run.

A fence on a cache key stops readers from storing a value from before the write. Owns two decisions: whether a
write has so many keys that a thread saves time, and whether the fences last until the COMMIT has ended.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import overload

from core.cache import NO_TOKEN, Cache

# A write with fewer cache keys starts no thread: fencing its keys takes less time than starting a thread.
MIN_KEYS_FENCED_AHEAD = 500
# If the fences on the cache keys are older than this, they are set again before the COMMIT. A fence lives 5 s
# longer than the query timeout, so a younger fence still exists when the COMMIT ends.
FRESH_SECONDS = 2.0


class LazyKeys(Sequence[str]):
    """A list of cache keys that is built at its first use.

    Building thousands of keys takes as long as setting fences on them in Redis. So the thread of `FenceAhead`
    builds them.
    """

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
    """Sets the fences on the cache keys of one transaction, in a thread, while its statements run.

    A fence stops readers from storing a value from before the write. The fences must be set before the
    COMMIT. Setting thousands of them takes long, so Redis sets them while PostgreSQL writes the rows. If
    there are few keys, no thread is started, and the caller fences the keys before the COMMIT.
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
        """Start the thread that sets the fences, unless there are few keys."""
        if len(self._keys) < MIN_KEYS_FENCED_AHEAD:
            return
        self.token = self._cache.new_fence()
        self._started_at = self._clock()
        self._thread = threading.Thread(target=self._run, name="fence-ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._cache.fence(self._keys, self.token, is_awaited=True)
        self._is_done = True

    def finish(self, more: Sequence[str]) -> Sequence[str]:
        """Wait until the thread has set its fences. Return the keys that the caller has to fence itself.

        `more` are keys that were not known at the start.
        """
        if self._thread is None:
            return [*self._keys, *more]
        self._thread.join()
        if not self._is_done or self._clock() - self._started_at > FRESH_SECONDS:
            # fence every key again: the thread failed, or its fences could expire before the COMMIT ends
            return [*self._keys, *more]
        fenced = set(self._keys) if more else ()
        return [key for key in more if key not in fenced]

    def cancel(self) -> Sequence[str]:
        """Wait for the thread. Return the keys that it fenced; none if no thread was started."""
        if self._thread is None:
            return ()
        self._thread.join()
        return self._keys
