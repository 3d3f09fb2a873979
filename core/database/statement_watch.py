"""Limits how long a caller waits for the answer to a statement.

Normally the server cancels a statement after the query timeout. A server that is stopped or unreachable
cannot do this. Keepalives and tcp_user_timeout do not help if the kernel of the server still acknowledges
packets. So if there is no answer shortly after the timeout, the watch shuts the socket down, and the caller
gets an error.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2.extensions import connection, cursor

logger = logging.getLogger(__name__)

# The watch waits this much longer than the query timeout. The server's own error has a better message, so it
# should arrive first.
GRACE_SECONDS = 1.0
# How often the watch checks the running statements.
CHECK_SECONDS = 0.5


class StatementAbandoned(psycopg2.OperationalError):
    """A statement had no answer within its time limit, and the watch has shut the socket down."""


class _Statement:
    __slots__ = ("deadline", "is_cut", "raw")

    def __init__(self, raw: connection, deadline: float) -> None:
        self.raw = raw
        self.deadline = deadline
        self.is_cut = False


class StatementWatch:
    """Shuts the socket of a connection down if its statement has no answer in time; thread safe."""

    def __init__(
        self,
        *,
        limit_seconds: float,
        on_check: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start no thread yet: the first statement starts it. The thread calls `on_check` every half second.

        `limit_seconds` is the query timeout of the connections.
        """
        self.limit_seconds = limit_seconds + GRACE_SECONDS
        self._on_check = on_check
        self._clock = clock
        # id of a connection with another limit -> this limit in seconds
        self._extended: dict[int, float] = {}
        self.cursor_factory = _make_cursor_class(self)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        # `run` adds statements without the lock, because adding to a set is atomic
        self._running: set[_Statement] = set()

    def run(
        self, raw: connection, limit_seconds: float | None, statement: Callable[..., Any], *args: Any
    ) -> Any:
        """Run a statement on the connection `raw`: call `statement` with `args`, and return its result.

        Raises `StatementAbandoned` if there is no answer within `limit_seconds`. None means the limit of the
        connection.
        """
        if self._thread is None:
            self._start()
        if limit_seconds is None:
            limit_seconds = self._extended.get(id(raw), self.limit_seconds)
        running = _Statement(raw, self._clock() + limit_seconds)
        self._running.add(running)
        try:
            return statement(*args)
        except psycopg2.Error as error:
            if running.is_cut:
                raise StatementAbandoned(f"no answer within {limit_seconds:g} s") from error
            if error.pgcode is None:
                _add_server_message(error, raw)
            raise
        finally:
            # hold the lock, so that the watch does not shut the socket down during the next statement
            with self._lock:
                self._running.discard(running)

    @contextmanager
    def extended(self, raw: connection, timeout_seconds: float) -> Iterator[None]:
        """Use another timeout for the statements of one connection during the block."""
        self._extended[id(raw)] = timeout_seconds + GRACE_SECONDS
        try:
            yield
        finally:
            self._extended.pop(id(raw), None)

    def close(self) -> None:
        """End the thread. Statements that still run are then limited only by the server's timeout."""
        self._stopping.set()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._check_all, name="statement-watch", daemon=True)
                self._thread.start()

    def _check_all(self) -> None:
        while not self._stopping.wait(min(CHECK_SECONDS, self.limit_seconds / 4)):
            self._cut_overdue(list(self._running))
            try:
                self._on_check()
            except Exception:
                # every error is caught here: without this thread a statement may wait forever
                logger.exception("looking after connections failed")

    def _cut_overdue(self, running: Sequence[_Statement]) -> None:
        now = self._clock()
        for statement in running:
            if now >= statement.deadline and not statement.is_cut:
                with self._lock:
                    if statement in self._running:
                        statement.is_cut = True
                        shut_socket_down(statement.raw)


def _add_server_message(error: psycopg2.Error, raw: connection) -> None:
    """Add the last message of the server or a pooler to `error`, as a note.

    The driver's own message says only that the connection is closed. libpq still has the server's message.
    """
    said = (raw.info.error_message or "").strip()
    if said and not str(error).startswith(said):
        error.add_note(said.splitlines()[0])


def shut_socket_down(raw: connection) -> None:
    """Shut the socket of a connection down. A thread that waits on it gets an error immediately.

    Closing the connection would wait for the running statement.
    """
    try:
        with socket.socket(fileno=os.dup(raw.fileno())) as shared:
            shared.shutdown(socket.SHUT_RDWR)
    except (OSError, psycopg2.Error):
        return


def _make_cursor_class(watch: StatementWatch) -> type[cursor]:
    class WatchedCursor(cursor):
        """A cursor that runs its statements with `StatementWatch.run`."""

        limit_seconds: float | None = None
        """The time limit of each statement of this cursor. None means the time limit of the connection."""

        def execute(self, query: Any, vars: Any = None) -> Any:  # noqa: A002  # psycopg2's name
            return watch.run(self.connection, self.limit_seconds, super().execute, query, vars)

        def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> Any:
            return watch.run(self.connection, self.limit_seconds, super().copy_expert, sql, file, size)

    return WatchedCursor
