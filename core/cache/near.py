"""The near cache: decoded values in this process, in front of Redis.

Owns whether values may be served without asking Redis: only while the invalidation feed is live.
A value is admitted only when no change of its key, or of a key it depends on, was heard since
before it was read from Redis: a message that overtakes the value refuses it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from core.cache.changes import Changes, Ticket
from core.cache.codec import ABSENT
from core.cache.entries import Entries

# Lists that are kept as a whole; those shorter are put together as quickly.
KEPT_LISTS = 64
LEAST_KEYS = 8


class _List(NamedTuple):
    """The cached result of a list of keys, good as long as no value has left since; None at first."""

    departures: int
    expires_at: float = 0.0
    values: dict[str, Any] | None = None


class NearTier(Entries):
    """The near cache of one process; thread safe, bounded in number and age."""

    def __init__(
        self,
        changes: Changes,
        *,
        max_entries: int,
        ttl_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(changes, max_entries=max_entries, ttl_seconds=ttl_seconds, clock=clock)
        self._lists: OrderedDict[tuple[str, ...], _List] = OrderedDict()
        self._is_live = False

    @property
    def is_live(self) -> bool:
        """Whether values are served and admitted at present; `get` has none while they are not."""
        return self._is_live

    def get_all(self, keys: tuple[str, ...]) -> dict[str, Any] | None:
        """Return the cached result of an earlier `get_many` for exactly these keys, or None.

        Absent values are left out. The dict is shared: do not modify it. A hit does not refresh the
        LRU order of the single values.
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
            if len(found) == len(keys) >= LEAST_KEYS:
                self._note_list(tuple(keys), found, expires_at)
        return found

    def _note_list(self, keys: tuple[str, ...], found: dict[str, Any], expires_at: float) -> None:
        kept = self._lists.get(keys)
        if kept is None or kept.departures != self._departures:
            # most values may leave between two reads of a list, which then is not worth keeping
            if kept is None and len(self._lists) >= KEPT_LISTS:
                self._lists.popitem(last=False)
            self._lists[keys] = _List(self._departures)
        else:
            values = {key: value for key, value in found.items() if value is not ABSENT}
            self._lists[keys] = _List(self._departures, expires_at, values)

    def begin_read(self) -> Ticket | None:
        """Return the ticket of a read from Redis that begins now; None when it need not be kept."""
        return self._changes.take_ticket() if self._is_live else None

    def end_read(self, ticket: Ticket | None, values: Mapping[str, Any], depends_on: tuple[str, ...]) -> None:
        """Admit the values that the read found, unless their keys or versions changed meanwhile."""
        if ticket is not None and self._is_live:
            self.put(ticket, values, depends_on)

    def invalidate(self, names: Collection[str]) -> None:
        """Drop the values under these names and those that depend on them, and refuse reads under way."""
        self._changes.note(names)
        self.drop(names)

    def open(self) -> None:
        """Begin to serve: the feed is live, and nothing from before it may be served."""
        self.clear()
        self._is_live = self._max_entries > 0

    def shut(self) -> None:
        """Stop serving: changes are no longer heard."""
        self._is_live = False
        self.clear()

    def reset_after_fork(self) -> None:
        """Take a new lock and stop serving, in a forked child: nothing is heard there."""
        super().reset_after_fork()
        self.shut()

    def clear(self) -> None:
        """Drop everything and refuse reads under way: the server forgot all its keys."""
        self._changes.note_all()
        super().clear()
        self._lists = OrderedDict()
