"""Single-flight: threads that miss the same key at the same time share one read.

A thread joins a running read only if the key and its version keys have not changed since that read began.
Otherwise the thread could get a value from before a write that has already returned.
"""

import threading
from collections.abc import Callable
from typing import Any

from core.cache.change_log import ChangeLog, Ticket


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
