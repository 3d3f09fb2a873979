"""The near tier: decoded values in this process, in front of Redis.

Owns which values may be served without asking Redis, and when they must go. It serves
only while the invalidation feed is live. A value is admitted only when nothing was heard
of its key, or of a key it depends on, since before it was read from Redis: a message that
overtakes the value refuses it.
"""

import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from core.cache.codec import ABSENT

# Lists that are kept as a whole; those shorter are put together as quickly.
KEPT_LISTS = 64
LEAST_KEYS = 8


class _Entry(NamedTuple):
    """A value, what it depends on, and until when it may be served."""

    value: Any
    depends_on: tuple[str, ...]
    expires_at: float


class _List(NamedTuple):
    """What a list of keys came to, good as long as no value has left since; None at first."""

    departures: int
    expires_at: float = 0.0
    values: dict[str, Any] | None = None


class NearTier:
    """The values of one process; thread safe, bounded in number and age."""

    def __init__(
        self,
        *,
        max_entries: int,
        ttl_seconds: float,
        on_change: Callable[[list[str]], None] = lambda _: None,
        on_clear: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_change = on_change
        self._on_clear = on_clear
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._max_entries = max_entries
        # the least recently used first; cachetools' LRUCache takes more than twice as long for a hit
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        # version key -> keys of the values that depend on it
        self._dependents: dict[str, set[str]] = {}
        # key -> tickets of the reads under way that it was not invalidated during
        self._reading: dict[str, set[int]] = {}
        self._tickets = itertools.count(1)
        # how many values have left, for whatever reason
        self._departures = 0
        self._lists: dict[tuple[str, ...], _List] = {}
        self._is_enabled = max_entries > 0
        self._is_live = False

    @property
    def is_live(self) -> bool:
        """Whether values are served and admitted at present."""
        return self._is_live

    def get(self, key: str) -> Any:
        """Return the value under `key`, or None."""
        if not self._is_live:
            return None
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry.expires_at > self._clock():
                self._entries.move_to_end(key)
                return entry.value
            self._drop(key)
            return None

    def get_all(self, keys: tuple[str, ...]) -> dict[str, Any] | None:
        """Return the values of a list of keys that was asked for before, without those that are absent.

        None when it has to be put together by `get_many`, which notes it. Not to be changed. A hit
        does not count as a use of each value.
        """
        kept = self._lists.get(keys)
        if (
            kept is not None
            and kept.departures == self._departures
            and kept.expires_at > self._clock()
            and self._is_live
        ):
            return kept.values
        return None

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values that are here, in the order of the keys."""
        if not self._is_live:
            return {}
        found: dict[str, Any] = {}
        with self._lock:
            entries, now = self._entries, self._clock()
            for key in keys:
                entry = entries.get(key)
                if entry is None:
                    continue
                if entry.expires_at > now:
                    entries.move_to_end(key)
                    found[key] = entry.value
                else:
                    self._drop(key)
            if len(found) == len(keys) >= LEAST_KEYS:
                self._note_list(tuple(keys), found)
        return found

    def _note_list(self, keys: tuple[str, ...], found: dict[str, Any]) -> None:
        kept = self._lists.get(keys)
        if kept is None or kept.departures != self._departures:
            # most values may leave between two reads of a list, which then is not worth keeping
            if kept is None and len(self._lists) >= KEPT_LISTS:
                self._lists.pop(next(iter(self._lists)), None)
            self._lists[keys] = _List(self._departures)
        else:
            values = {key: value for key, value in found.items() if value is not ABSENT}
            expires_at = min(self._entries[key].expires_at for key in keys)
            self._lists[keys] = _List(self._departures, expires_at, values)

    def begin_read(self, keys: Sequence[str]) -> int:
        """Note that the keys are about to be read from Redis; return the read's ticket, 0 for none."""
        if not self._is_live:
            return 0
        with self._lock:
            ticket = next(self._tickets)
            for key in keys:
                self._reading.setdefault(key, set()).add(ticket)
            return ticket

    def end_read(
        self, ticket: int, keys: Sequence[str], values: dict[str, Any], depends_on: tuple[str, ...]
    ) -> None:
        """Admit the values that the read found, unless something was heard of their keys meanwhile.

        `keys` are those that the read began with, version keys included.
        """
        if not ticket:
            return
        with self._lock:
            heard = {key for key in keys if ticket not in self._reading.get(key, ())}
            for key in keys:
                self._forget_ticket(key, ticket)
            if not self._is_live or not heard.isdisjoint(depends_on):
                return
            expires_at = self._clock() + self._ttl_seconds
            for key, value in values.items():
                if key not in heard:
                    self._admit(key, _Entry(value, depends_on, expires_at))

    def _admit(self, key: str, entry: _Entry) -> None:
        self._drop(key)
        if len(self._entries) >= self._max_entries:
            oldest, evicted = self._entries.popitem(last=False)
            self._unlink(oldest, evicted)
        self._entries[key] = entry
        for version_key in entry.depends_on:
            self._dependents.setdefault(version_key, set()).add(key)

    def _forget_ticket(self, key: str, ticket: int) -> None:
        tickets = self._reading.get(key)
        if tickets is not None:
            tickets.discard(ticket)
            if not tickets:
                del self._reading[key]

    def invalidate(self, keys: Iterable[str]) -> None:
        """Drop the values under these keys and those that depend on them, and refuse reads under way."""
        changed = list(keys)
        self._on_change(changed)
        with self._lock:
            # most of what is heard concerns nothing here
            for key in changed:
                if key not in self._reading and key not in self._entries and key not in self._dependents:
                    continue
                self._reading.pop(key, None)
                self._drop(key)
                for dependent in self._dependents.pop(key, ()):
                    self._drop(dependent)

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._unlink(key, entry)

    def _unlink(self, key: str, entry: _Entry) -> None:
        self._departures += 1
        for version_key in entry.depends_on:
            dependents = self._dependents.get(version_key)
            if dependents is not None:
                dependents.discard(key)
                if not dependents:
                    del self._dependents[version_key]

    def open(self) -> None:
        """Begin to serve: the feed is live, and nothing from before it may be."""
        with self._lock:
            self._clear()
            self._is_live = self._is_enabled

    def shut(self) -> None:
        """Stop serving: what changes is no longer heard."""
        with self._lock:
            self._is_live = False
            self._clear()

    def renew(self) -> None:
        """Take a new lock and stop serving, in a forked child: nothing is heard there."""
        self._lock = threading.Lock()
        self.shut()

    def clear(self) -> None:
        """Drop everything: the server forgot all its keys."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._on_clear()
        self._departures += 1
        self._lists.clear()
        self._entries.clear()
        self._dependents.clear()
        self._reading.clear()

    def __len__(self) -> int:
        """Return how many values are held."""
        return len(self._entries)
