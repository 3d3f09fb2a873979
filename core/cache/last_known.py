"""What was last read under each key, for when the database cannot be asked.

Owns the fail-safe: values are kept beyond their time to live, for a bounded while, and
are handed out only in place of an error. What this process itself changed is forgotten,
so nobody reads an older value than the one they wrote.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cachetools import TTLCache


class LastKnown:
    """The last known values of one process; thread safe, bounded in number and age."""

    def __init__(
        self, *, max_entries: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self.renew()
        self._is_enabled = max_entries > 0 and seconds > 0
        # key -> (value, keys it depends on, when it was read)
        self._values: TTLCache[str, tuple[Any, tuple[str, ...], float]] = TTLCache(
            max(1, max_entries), max(seconds, 1e-9), timer=clock
        )
        self._forgotten = 0
        self._thread = threading.local()

    def renew(self) -> None:
        """Take a new lock, in a forked child."""
        self._lock = threading.Lock()

    @property
    def age_seconds(self) -> float | None:
        """How old the answer to this thread's last read was, when it was a last known value."""
        age: float | None = getattr(self._thread, "age", None)
        return age

    def begin(self) -> int:
        """Note that this thread reads something, fresh unless it is recalled; return a ticket."""
        self._thread.age = None
        return self._forgotten

    def remember(self, ticket: int, values: Mapping[str, Any], depends_on: tuple[str, ...]) -> None:
        """Keep values that were just read, unless this process changed anything meanwhile."""
        now = self._clock()
        with self._lock:
            if self._is_enabled and ticket == self._forgotten:
                for key, value in values.items():
                    self._values[key] = (value, depends_on, now)

    def recall(self, key: str) -> Any:
        """Return the last known value, marked as stale for this thread, or None."""
        with self._lock:
            known = self._values.get(key)
        if known is None:
            return None
        self._thread.age = max(self._clock() - known[2], getattr(self._thread, "age", None) or 0.0)
        return known[0]

    def forget(self, keys: Iterable[str]) -> None:
        """Forget values that this process changed, and those that depend on such keys."""
        changed = set(keys)
        with self._lock:
            self._forgotten += 1
            if not self._is_enabled:
                return
            for key in changed:
                self._values.pop(key, None)
            versions = {key for key in changed if key.startswith("version:")}
            if versions:
                outdated = [k for k, known in self._values.items() if not versions.isdisjoint(known[1])]
                for key in outdated:
                    self._values.pop(key, None)
