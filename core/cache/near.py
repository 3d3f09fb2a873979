"""Decoded values in the memory of one process: the near cache in front of Redis, and fail-safe values.

`Entries` keeps values by key, bounded in number and age. It has an index from each version key to the values
that depend on it. There may be millions of entries, so the cost of an operation depends only on the number of
entries that it returns or drops. `NearCache` serves values only while the invalidation feed is live.
`FailSafeValues` keeps values longer, and returns them only if the database does not answer.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

from core.cache.change_log import ChangeLog, Ticket
from core.cache.codec import ABSENT

# a value, the version keys on which it depends, and the time when it expires
Entry = tuple[Any, tuple[str, ...], float]
# version key -> keys of the values that depend on it
Dependents = dict[str, set[str]]

# Number of cleared entries that are freed when one entry is added. More than one, so that memory shrinks.
FREED_AT_ONCE = 2
# Maximum number of results of `get_many` that are kept.
KEPT_RESULTS = 64
# A result of fewer keys is not kept, because building it takes no longer than finding it.
MIN_KEPT_KEYS = 8


class Entries:
    """Values by key; thread safe. The least recently used value is evicted when `max_entries` is reached."""

    def __init__(
        self,
        changes: ChangeLog,
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
        # in the order of use, least recently used first
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._dependents: Dependents = {}
        # entries that were cleared but not freed: freeing a hundred thousand at once stops every thread for
        # 50 ms
        self._cleared: deque[tuple[OrderedDict[str, Entry], Dependents]] = deque()
        # increases whenever a value is dropped, for any reason
        self._drop_count = 0

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
        """Store the values of a read, except those that changed after the read took `ticket`."""
        if not values or not self._max_entries:
            return
        # `drop` takes this lock after its change has been logged. So either the log shows the change here, or
        # `drop` removes these values afterwards.
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
        """Drop the values whose key or version key is in `names`.

        The caller must have recorded the names in the `ChangeLog` before, so that a read that began earlier
        stores no old value afterwards.
        """
        with self._lock:
            # most changed names have no value here, and set intersections are fast
            for key in self._entries.keys() & names:
                self._drop(key)
            for version_key in self._dependents.keys() & names:
                # the default is needed if this loop has dropped the last value that depends on the version
                # key
                for key in self._dependents.pop(version_key, ()):
                    self._drop(key)

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._unlink(self._dependents, key, entry)

    def _unlink(self, index: Dependents, key: str, entry: Entry) -> None:
        self._drop_count += 1
        for version_key in entry[1]:
            dependents = index.get(version_key)
            if dependents is not None:
                dependents.discard(key)
                if not dependents:
                    del index[version_key]

    def clear(self) -> None:
        """Drop all values. Their memory is freed in small steps by later calls of `put`."""
        with self._lock:
            self._drop_count += 1
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
        """Return the number of values."""
        return len(self._entries)


class _KeptResult(NamedTuple):
    """A result of `get_many`, valid until any value is dropped. `values` is None until the second read."""

    drop_count: int
    expires_at: float = 0.0
    values: dict[str, Any] | None = None


class NearCache(Entries):
    """The near cache of one process; thread safe, bounded in number and age."""

    def __init__(
        self,
        changes: ChangeLog,
        *,
        max_entries: int,
        ttl_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(changes, max_entries=max_entries, ttl_seconds=ttl_seconds, clock=clock)
        self._results: OrderedDict[tuple[str, ...], _KeptResult] = OrderedDict()
        self._is_live = False

    @property
    def is_live(self) -> bool:
        """Whether values are served and stored. While False, the cache is empty."""
        return self._is_live

    def find_result(self, keys: tuple[str, ...]) -> dict[str, Any] | None:
        """Return the kept result of an earlier `get_many` for exactly these keys, or None.

        Keys of rows that do not exist are left out. The dict is shared: do not modify it. A hit does not
        refresh the LRU order of the single values.
        """
        kept = self._results.get(keys)
        if (
            kept is not None
            and kept.drop_count == self._drop_count
            and kept.expires_at > self._clock()
            and self._is_live
        ):
            return kept.values
        return None

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values of those keys that are in this cache, in the order of `keys`."""
        if not self._is_live:
            return {}
        found: dict[str, Any] = {}
        with self._lock:
            entries, now = self._entries, self._clock()
            expires_at = float("inf")
            for key in keys:
                entry = entries.get(key)
                if entry is None:
                    continue
                value, _, until = entry
                if until > now:
                    entries.move_to_end(key)
                    found[key] = value
                    expires_at = min(expires_at, until)
                else:
                    self._drop(key)
            if len(found) == len(keys) >= MIN_KEPT_KEYS:
                self._keep_result(tuple(keys), found, expires_at)
        return found

    def _keep_result(self, keys: tuple[str, ...], found: dict[str, Any], expires_at: float) -> None:
        kept = self._results.get(keys)
        if kept is None or kept.drop_count != self._drop_count:
            # The first read keeps only the keys. The second read of the same keys also keeps the dict.
            if kept is None and len(self._results) >= KEPT_RESULTS:
                self._results.popitem(last=False)
            self._results[keys] = _KeptResult(self._drop_count)
        else:
            values = {key: value for key, value in found.items() if value is not ABSENT}
            self._results[keys] = _KeptResult(self._drop_count, expires_at, values)

    def begin_read(self) -> Ticket | None:
        """Return the ticket of a read from Redis that begins now, or None while the cache is shut."""
        return self._changes.take_ticket() if self._is_live else None

    def end_read(self, ticket: Ticket | None, values: Mapping[str, Any], depends_on: tuple[str, ...]) -> None:
        """Store the values of a read, except those whose key or version key changed during the read."""
        if ticket is not None and self._is_live:
            self.put(ticket, values, depends_on)

    def invalidate(self, names: Collection[str]) -> None:
        """Drop the values whose key or version key is in `names`.

        A read that is running does not store these values afterwards.
        """
        self._changes.record(names)
        self.drop(names)

    def open(self) -> None:
        """Empty the cache, then serve values again.

        Earlier values may be outdated, because the invalidation feed did not report changes until now.
        """
        self.clear()
        self._is_live = self._max_entries > 0

    def shut(self) -> None:
        """Stop serving values and drop them all: the invalidation feed does not report changes any more."""
        self._is_live = False
        self.clear()

    def clear(self) -> None:
        """Drop all values. Reads that are running store nothing afterwards."""
        self._changes.record_all()
        super().clear()
        self._results = OrderedDict()


class FailSafeValues:
    """The last known values of one process, served if the database does not answer; thread safe, bounded.

    A change by this process drops the value, so no caller reads a value from before a write of this process.
    A change by another process does not drop the value: it is still the last value that this process knows.
    """

    def __init__(
        self, *, max_entries: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._changes = ChangeLog()
        self._clock = clock
        # each value is kept with the time at which it was read
        self._entries = Entries(
            self._changes, max_entries=max_entries if seconds > 0 else 0, ttl_seconds=seconds, clock=clock
        )
        # a context variable, so that each asyncio task has its own age
        self._age: ContextVar[float | None] = ContextVar("age", default=None)

    @property
    def age_seconds(self) -> float | None:
        """Age of the result of the last read in this context if it was a fail-safe value, else None."""
        return self._age.get()

    def begin_read(self) -> None:
        """Reset the age: a read begins in this context, and its result is fresh unless `recall` is called."""
        # the age is usually None already, and to read the variable is cheaper than to set it
        if self._age.get() is not None:
            self._age.set(None)

    def take_ticket(self) -> Ticket:
        """Return a ticket for `remember`. Call this before the database is queried."""
        return self._changes.take_ticket()

    def remember(self, ticket: Ticket, values: Mapping[str, Any], depends_on: tuple[str, ...]) -> None:
        """Keep the values of a read, except those that this process changed after `ticket` was taken."""
        now = self._clock()
        self._entries.put(ticket, {key: (value, now) for key, value in values.items()}, depends_on)

    def recall(self, key: str) -> Any:
        """Return the fail-safe value of a key, or None. Record the age of the value for this context."""
        known = self._entries.get(key)
        if known is None:
            return None
        value, read_at = known
        self._age.set(max(self._clock() - read_at, self._age.get() or 0.0))
        return value

    def clear(self) -> None:
        """Drop all values. Reads that are running keep nothing afterwards."""
        self._changes.record_all()
        self._entries.clear()

    def invalidate(self, names: Collection[str]) -> None:
        """Drop the values whose key or version key is in `names`, because this process has changed them."""
        self._changes.record(names)
        self._entries.drop(names)
