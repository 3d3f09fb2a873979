"""Recent changes, and single-flight: a value that was read before a change is not used after it.

`ChangeLog` keeps the names that changed recently. A name is a key, or a version key on which values depend.
A reader takes a ticket before it reads, and asks afterwards whether one of the names that it read has
changed since; the cost does not depend on the number of readers or of cached values.

`SingleFlight` lets threads that miss the same key at the same time share one read. A thread never joins a
running read if the key or a version key of it changed after this read began: after a write the thread must
not get a value from before the write.
"""

import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

# At 5,000 changes a second, at least the changes of the last three seconds are kept. A reader that began
# earlier is told that all its names changed, so its values are not cached.
REMEMBERED_NAMES = 16_384

Ticket = int


class _Known(NamedTuple):
    """The number of the last change of each name, in two generations.

    When the younger one is full, it becomes the older one, and the previous older one is dropped.
    """

    since: Ticket
    """Every change with a higher number than this is in one of the two generations."""
    younger_since: Ticket
    older: dict[str, int]
    younger: dict[str, int]


class ChangeLog:
    """The changes that one process made or received from the feed; thread safe, bounded in number."""

    def __init__(self, *, remembered_names: int = REMEMBERED_NAMES) -> None:
        self._remembered_names = remembered_names
        # the number of the last change; it only increases
        self._count = 0
        self._known = _Known(0, 0, {}, {})
        self._lock = threading.Lock()

    def take_ticket(self) -> Ticket:
        """Return a ticket for a read that begins now."""
        return self._count

    def note(self, names: Iterable[str]) -> None:
        """Note that these names changed; call it before their values are dropped."""
        with self._lock:
            number = self._count + 1
            _, younger_since, _, younger = self._known
            for name in names:
                younger[name] = number
            if len(younger) > self._remembered_names:
                self._known = _Known(younger_since, number, younger, {})
            # set last, so that the names are in the log before a ticket can have this number
            self._count = number

    def note_all(self) -> None:
        """Note that everything may have changed."""
        with self._lock:
            number = self._count + 1
            self._known = _Known(number, number, {}, {})
            self._count = number

    def list_changed(self, ticket: Ticket, names: Collection[str]) -> Collection[str]:
        """Return the names that changed since the ticket was taken."""
        if ticket == self._count:
            # the usual case: nothing has changed
            return ()
        since, _, older, younger = self._known
        if ticket < since:
            return names
        return [name for name in names if younger.get(name, 0) > ticket or older.get(name, 0) > ticket]


class _Call:
    """A running read and its outcome."""

    __slots__ = ("done", "error", "names", "ticket", "value")

    def __init__(self, names: tuple[str, ...], ticket: Ticket) -> None:
        self.names = names
        self.ticket = ticket
        self.done = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None


class SingleFlight:
    """The running reads of this process, by key."""

    def __init__(self, changes: ChangeLog) -> None:
        self._changes = changes
        self._calls: dict[str, _Call] = {}
        self._lock = threading.Lock()

    def do(self, key: str, depends_on: tuple[str, ...], read: Callable[[], Any]) -> Any:
        """Return the result of `read`, or the result of a running read of this key.

        An error of the read is raised in every waiting thread. If the reading thread was interrupted, each
        waiting thread calls its own `read` instead.
        """
        with self._lock:
            call = self._calls.get(key)
            is_leader = call is None or self._is_outdated(call)
            if call is None or is_leader:
                call = self._calls[key] = _Call((key, *depends_on), self._changes.take_ticket())
        if is_leader:
            self._run(key, call, read)
        else:
            call.done.wait()
        if call.error is not None:
            if not is_leader and not isinstance(call.error, Exception):
                return read()
            raise call.error
        return call.value

    def _is_outdated(self, call: _Call) -> bool:
        return bool(self._changes.list_changed(call.ticket, call.names))

    def do_next(self, key: str, read: Callable[[], Any]) -> Any:
        """Return the result of a read that begins after this call; share it and raise errors like `do`.

        For a process without an invalidation feed: threads that find a running read wait until it has
        ended, and then one of them reads for all of them.
        """
        with self._lock:
            under_way = self._calls.get(key)
        if under_way is not None:
            under_way.done.wait()
        return self.do(key, (), read)

    def _run(self, key: str, call: _Call, read: Callable[[], Any]) -> None:
        try:
            call.value = read()
        except BaseException as error:
            call.error = error
        finally:
            with self._lock:
                if self._calls.get(key) is call:
                    del self._calls[key]
            call.done.set()
