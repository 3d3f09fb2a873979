"""Single-flight: threads that miss the same key at the same time share one read.

Owns who reads and who waits. A flight is left behind as soon as its key is invalidated:
whoever comes later must not get what was read before.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any


class _Flight:
    """One read under way and its outcome."""

    __slots__ = ("done", "error", "names", "value")

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self.done = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None


class Flights:
    """The reads under way in this process, by key."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight] = {}
        self.renew()

    def renew(self) -> None:
        """Take a new lock, in a forked child, where nobody flies."""
        self._lock = threading.Lock()
        self._flights.clear()

    def share(self, key: str, depends_on: tuple[str, ...], read: Callable[[], Any]) -> Any:
        """Return what `read` returns, or what a read of this key that is under way will.

        An error of the read is raised to everyone who waited for it, unless it was meant for the
        reading thread alone (an interrupt).
        """
        with self._lock:
            flight = self._flights.get(key)
            is_leader = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight(frozenset((key, *depends_on)))
        if is_leader:
            self._fly(key, flight, read)
        else:
            flight.done.wait()
        if flight.error is not None:
            if not is_leader and not isinstance(flight.error, Exception):
                return read()
            raise flight.error
        return flight.value

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

    def leave(self, keys: Iterable[str]) -> None:
        """Let nobody join the present reads of these keys, or of what depends on them, any more."""
        if not self._flights:
            return
        left = set(keys)
        with self._lock:
            for key, flight in list(self._flights.items()):
                if not flight.names.isdisjoint(left):
                    del self._flights[key]

    def leave_all(self) -> None:
        """Let nobody join any present read any more."""
        with self._lock:
            self._flights.clear()
