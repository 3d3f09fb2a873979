"""The log of recent changes: a value that was read before a change is not used after the change.

`ChangeLog` keeps the names that changed recently. A name is a cache key, or a version key on which values
depend. A reader takes a ticket, the number of the last change, before it reads. After the read it asks the
log which of its names have changed since the ticket. The cost of this question depends neither on the number
of readers nor on the number of cached values.
"""

import threading
from collections.abc import Collection, Iterable
from typing import NamedTuple

# Number of changed names (keys and version keys) in one generation of the log. At 5,000 changes a second, the
# log reaches back at least three seconds. If a reader took its ticket earlier, the log reports all names as
# changed, so the values of that reader are not cached.
REMEMBERED_NAMES = 16_384

Ticket = int


class _Known(NamedTuple):
    """The number of the last change of each name, in two dicts: an older and a younger generation.

    When the younger dict is full, it becomes the older one, and the previous older dict is dropped.
    """

    since: Ticket
    """Every change with a higher number than `since` is in one of the two dicts."""
    younger_since: Ticket
    older: dict[str, int]
    younger: dict[str, int]


class ChangeLog:
    """Recent changes that this process made, or received from the invalidation feed; thread safe, bounded."""

    def __init__(self, *, remembered_names: int = REMEMBERED_NAMES) -> None:
        self._remembered_names = remembered_names
        # the number of the last change; it only increases
        self._count = 0
        self._known = _Known(0, 0, {}, {})
        self._lock = threading.Lock()

    def take_ticket(self) -> Ticket:
        """Return the number of the last change. Call this before a read begins."""
        return self._count

    def record(self, names: Iterable[str]) -> None:
        """Record that these names changed. Call this before their values are dropped."""
        with self._lock:
            number = self._count + 1
            _, younger_since, _, younger = self._known
            for name in names:
                younger[name] = number
            if len(younger) > self._remembered_names:
                self._known = _Known(younger_since, number, younger, {})
            # set last, so that the names are in the log before a ticket can have this number
            self._count = number

    def record_all(self) -> None:
        """Record a change of all names."""
        with self._lock:
            number = self._count + 1
            self._known = _Known(number, number, {}, {})
            self._count = number

    def list_changed(self, ticket: Ticket, names: Collection[str]) -> Collection[str]:
        """Return those of `names` that changed after the ticket was taken."""
        if ticket == self._count:
            # fast path: nothing has changed
            return ()
        since, _, older, younger = self._known
        if ticket < since:
            return names
        return [name for name in names if younger.get(name, 0) > ticket or older.get(name, 0) > ticket]
