"""Fail-safe values: the last known value of each key, for when the database cannot be asked.

Owns how old they may be and how old the one is that a thread or task was given. Values are kept
beyond their time to live, for a bounded while, and are handed out only in place of an error. A key
that this process changed is forgotten, so nobody reads an older value than they wrote.
"""

import time
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from typing import Any

from core.cache.changes import Changes, Ticket
from core.cache.entries import Entries


class LastKnown:
    """The fail-safe values of one process; thread safe, bounded in number and age."""

    def __init__(
        self, *, max_entries: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # those of this process alone: what another one changed is still the last known value here
        self._changes = Changes()
        self._clock = clock
        # each value with the time at which it was read
        self._entries = Entries(
            self._changes, max_entries=max_entries if seconds > 0 else 0, ttl_seconds=seconds, clock=clock
        )
        # of each context, so that tasks of one thread do not see each other's; None after a fresh read
        self._age: ContextVar[float | None] = ContextVar("age", default=None)

    def reset_after_fork(self) -> None:
        """Take new locks, in a forked child, where no read is under way."""
        self._changes.reset_after_fork()
        self._entries.reset_after_fork()

    @property
    def age_seconds(self) -> float | None:
        """How old the answer to this context's last read was, when it was a fail-safe value."""
        return self._age.get()

    def begin(self) -> Ticket:
        """Note that this context reads something, fresh unless it is recalled; return a ticket."""
        # most reads are fresh, and looking costs less than setting
        if self._age.get() is not None:
            self._age.set(None)
        return self._changes.take_ticket()

    def remember(self, ticket: Ticket, values: Mapping[str, Any], depends_on: tuple[str, ...]) -> None:
        """Keep values that were just read, unless this process changed them meanwhile."""
        now = self._clock()
        self._entries.put(ticket, {key: (value, now) for key, value in values.items()}, depends_on)

    def recall(self, key: str) -> Any:
        """Return the fail-safe value, marked as stale for this context, or None."""
        known = self._entries.get(key)
        if known is None:
            return None
        value, read_at = known
        self._age.set(max(self._clock() - read_at, self._age.get() or 0.0))
        return value

    def forget(self, names: Collection[str]) -> None:
        """Drop the values under names that this process changed, and those that depend on them."""
        self._changes.note(names)
        self._entries.drop(names)
