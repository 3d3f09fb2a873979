"""Decoded values in the memory of a process, dropped by key or by what they depend on.

Owns the index from version keys to the values that depend on them, the bounds in number and age,
and the check that a value is not older than the last change of its names. No operation looks at
more than the entries that it is asked for and those that it drops: there may be millions.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from core.cache.changes import Changes, Ticket

# a value, the version keys that it depends on, and until when it may be served
Entry = tuple[Any, tuple[str, ...], float]
# version key -> keys of the values that depend on it
Dependents = dict[str, set[str]]

# Entries of before a `clear` that each new one frees: more than one, so that they come to an end.
FREED_AT_ONCE = 2


class Entries:
    """Values by key; thread safe, the least recently used are evicted."""

    def __init__(
        self,
        changes: Changes,
        *,
        max_entries: int,
        ttl_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._changes = changes
        self._max_entries = max_entries
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._lock = threading.Lock()
        # the least recently used first
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._dependents: Dependents = {}
        # what `clear` has left; to free a hundred thousand entries stops every thread for 50 ms
        self._cleared: deque[tuple[OrderedDict[str, Entry], Dependents]] = deque()
        # how many values have left, for whatever reason
        self._departures = 0

    def reset_after_fork(self) -> None:
        """Take a new lock, in a forked child; the values are as good as its parent's."""
        self._lock = threading.Lock()

    def get(self, key: str) -> Any:
        """Return the value under `key`, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry[2] > self._clock():
                self._entries.move_to_end(key)
                return entry[0]
            self._drop(key)
            return None

    def put(self, ticket: Ticket, values: Mapping[str, Any], depends_on: tuple[str, ...]) -> None:
        """Keep values of a read that took `ticket` before it began, but those that changed since."""
        if not values or not self._max_entries:
            return
        # a change is noted first and dropped then, which waits for this lock: none is missed in between
        with self._lock:
            if self._changes.list_changed(ticket, depends_on):
                return
            changed = set(self._changes.list_changed(ticket, values))
            expires_at = self._clock() + self._ttl_seconds
            for key, value in values.items():
                if key not in changed:
                    self._admit(key, (value, depends_on, expires_at))

    def _admit(self, key: str, entry: Entry) -> None:
        self._drop(key)
        if len(self._entries) >= self._max_entries:
            self._unlink(self._dependents, *self._entries.popitem(last=False))
        for version_key in entry[1]:
            self._dependents.setdefault(version_key, set()).add(key)
        self._entries[key] = entry
        if self._cleared:
            self._free_cleared()

    def drop(self, names: Iterable[str]) -> None:
        """Drop the values under these keys and those that depend on them; changes are noted before."""
        with self._lock:
            # most of what is heard concerns nothing here, and is passed over without a line of Python
            for key in self._entries.keys() & names:
                self._drop(key)
            for version_key in self._dependents.keys() & names:
                # gone by now when its last dependent was dropped through another version
                for key in self._dependents.pop(version_key, ()):
                    self._drop(key)

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._unlink(self._dependents, key, entry)

    def _unlink(self, index: Dependents, key: str, entry: Entry) -> None:
        self._departures += 1
        for version_key in entry[1]:
            dependents = index.get(version_key)
            if dependents is not None:
                dependents.discard(key)
                if not dependents:
                    del index[version_key]

    def clear(self) -> None:
        """Drop everything, and free the memory bit by bit."""
        with self._lock:
            self._departures += 1
            if self._entries:
                self._cleared.append((self._entries, self._dependents))
                self._entries, self._dependents = OrderedDict(), {}

    def _free_cleared(self) -> None:
        entries, index = self._cleared[0]
        for _ in range(min(FREED_AT_ONCE, len(entries))):
            self._unlink(index, *entries.popitem())
        if not entries:
            self._cleared.popleft()

    def __len__(self) -> int:
        """Return how many values are held."""
        return len(self._entries)
