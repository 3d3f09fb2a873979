"""The names that changed lately: who read before a change must not use the answer after it.

Owns the order of changes. A name is a key, or a version key that values depend on. A reader
takes a ticket before it reads and asks afterwards whether any of its names changed since; it
costs the same however many reads are under way and however much is cached. Holds no values.
"""

import threading
from collections.abc import Collection, Iterable
from typing import NamedTuple

# Names that are remembered: at 5,000 changes a second those of the last three seconds at least. A
# reader that began before is told that everything changed, so its answer is not kept.
REMEMBERED_NAMES = 16_384

Ticket = int


class _Known(NamedTuple):
    """The number of the last change of each name, in two generations: the older is dropped as a whole."""

    since: Ticket
    """Every change with a higher number is known."""
    younger_since: Ticket
    older: dict[str, int]
    younger: dict[str, int]


class Changes:
    """The changes that one process made or heard of, in order; thread safe, bounded in number."""

    def __init__(self, *, remembered_names: int = REMEMBERED_NAMES) -> None:
        self._remembered_names = remembered_names
        # the number of the last change; it never returns to an earlier value
        self._count = 0
        self._known = _Known(0, 0, {}, {})
        self._lock = threading.Lock()

    def reset_after_fork(self) -> None:
        """Take a new lock, in a forked child, where no read is under way."""
        self._lock = threading.Lock()
        self.note_all()

    def take_ticket(self) -> Ticket:
        """Return a ticket for a read that begins now."""
        return self._count

    def note(self, names: Iterable[str]) -> None:
        """Note that these names changed; to be called before the values under them are dropped."""
        with self._lock:
            number = self._count + 1
            _, younger_since, _, younger = self._known
            for name in names:
                younger[name] = number
            if len(younger) > self._remembered_names:
                self._known = _Known(younger_since, number, younger, {})
            # last, so that a ticket which has the number was taken when the names were known
            self._count = number

    def note_all(self) -> None:
        """Note that everything may have changed."""
        with self._lock:
            number = self._count + 1
            self._known = _Known(number, number, {}, {})
            self._count = number

    def list_changed(self, ticket: Ticket, names: Collection[str]) -> Collection[str]:
        """Return those of the names that changed since the ticket was taken."""
        if ticket == self._count:
            # most reads: nothing at all has changed
            return ()
        since, _, older, younger = self._known
        if ticket < since:
            return names
        return [name for name in names if younger.get(name, 0) > ticket or older.get(name, 0) > ticket]
