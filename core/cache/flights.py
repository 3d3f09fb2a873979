"""Single-flight: threads that miss the same key at the same time share one read.

Owns who reads and who waits. Nobody joins a read that began before a change of its key, or of
a key it depends on: who comes after a write must not get what was read before it.
"""

import threading
from collections.abc import Callable
from typing import Any

from core.cache.changes import Changes, Ticket


class _Flight:
    """One read under way and its outcome."""

    __slots__ = ("done", "error", "names", "ticket", "value")

    def __init__(self, names: tuple[str, ...], ticket: Ticket) -> None:
        self.names = names
        self.ticket = ticket
        self.done = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None


class Flights:
    """The reads under way in this process, by key."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._flights: dict[str, _Flight] = {}
        self._lock = threading.Lock()

    def reset_after_fork(self) -> None:
        """Take a new lock, in a forked child, where no read is under way."""
        self._lock = threading.Lock()
        self._flights.clear()

    def share(self, key: str, depends_on: tuple[str, ...], read: Callable[[], Any]) -> Any:
        """Return what `read` returns, or what a read of this key that is under way will.

        An error of the read is raised to everyone who waited for it, unless it was meant for the
        reading thread alone (an interrupt).
        """
        with self._lock:
            flight = self._flights.get(key)
            is_leader = flight is None or self._is_overtaken(flight)
            if flight is None or is_leader:
                flight = self._flights[key] = _Flight((key, *depends_on), self._changes.take_ticket())
        if is_leader:
            self._fly(key, flight, read)
        else:
            flight.done.wait()
        if flight.error is not None:
            if not is_leader and not isinstance(flight.error, Exception):
                return read()
            raise flight.error
        return flight.value

    def _is_overtaken(self, flight: _Flight) -> bool:
        return bool(self._changes.list_changed(flight.ticket, flight.names))

    def share_next(self, key: str, read: Callable[[], Any]) -> Any:
        """Like `share`, but share only a read that begins after this was called.

        For when nobody tells of changes: whoever finds a read under way waits for its end, and
        then one reads for all who waited.
        """
        with self._lock:
            under_way = self._flights.get(key)
        if under_way is not None:
            under_way.done.wait()
        return self.share(key, (), read)

    def _fly(self, key: str, flight: _Flight, read: Callable[[], Any]) -> None:
        try:
            flight.value = read()
        except BaseException as error:
            flight.error = error
        finally:
            with self._lock:
                if self._flights.get(key) is flight:
                    del self._flights[key]
            flight.done.set()
