"""The log of recent changes, and single-flight: a value that was read before a change is not used after it.

`ChangeLog` keeps the names that changed recently. A name is a cache key, or a version key on which values
depend. A reader takes a ticket, the number of the last change, before it reads. After the read it asks the
log which of its names have changed since the ticket. The cost of this question depends neither on the number
of readers nor on the number of cached values.

`SingleFlight` lets threads that miss the same key at the same time share one read. A thread joins a running
read only if the key and its version keys have not changed since that read began. Otherwise the thread could
get a value from before a write that has already returned.
"""

import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

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


class _RunningRead:
    """A read of one key. When it has ended, `value` or `error` is set."""

    __slots__ = ("done", "error", "names", "ticket", "value")

    def __init__(self, names: tuple[str, ...], ticket: Ticket) -> None:
        self.names = names
        self.ticket = ticket
        self.done = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None


class SingleFlight:
    """Lets threads that miss the same key at the same time share one read; thread safe."""

    def __init__(self, changes: ChangeLog) -> None:
        self._changes = changes
        self._running: dict[str, _RunningRead] = {}
        self._lock = threading.Lock()

    def do(self, key: str, depends_on: tuple[str, ...], read: Callable[[], Any]) -> Any:
        """Return the result of `read`, or of a read of the same key that another thread is running.

        An error of that read is raised in every thread that waits for it. If the reading thread is
        interrupted, for example by `KeyboardInterrupt`, each waiting thread calls its own `read`.
        """
        with self._lock:
            running = self._running.get(key)
            is_leader = running is None or self._is_outdated(running)
            if running is None or is_leader:
                running = self._running[key] = _RunningRead((key, *depends_on), self._changes.take_ticket())
        if is_leader:
            self._run(key, running, read)
        else:
            running.done.wait()
        if running.error is not None:
            if not is_leader and not isinstance(running.error, Exception):
                return read()
            raise running.error
        return running.value

    def _is_outdated(self, running: _RunningRead) -> bool:
        return bool(self._changes.list_changed(running.ticket, running.names))

    def do_next(self, key: str, read: Callable[[], Any]) -> Any:
        """Like `do`, but the result comes from a read that begins after this call.

        For a process without an invalidation feed: a read that is already running may have found a value from
        before a write of another process. Threads wait until that read has ended. Then one thread reads for
        all of them.
        """
        with self._lock:
            under_way = self._running.get(key)
        if under_way is not None:
            under_way.done.wait()
        return self.do(key, (), read)

    def _run(self, key: str, running: _RunningRead, read: Callable[[], Any]) -> None:
        try:
            running.value = read()
        except BaseException as error:
            running.error = error
        finally:
            with self._lock:
                if self._running.get(key) is running:
                    del self._running[key]
            running.done.set()
