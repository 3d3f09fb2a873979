"""A statement without an answer from the server ends with an error that has the reason."""

import gc
import socket
import threading
from typing import Any, cast

import psycopg2
import pytest
from psycopg2.extensions import connection

from core.database.statement_watch import StatementAbandoned, StatementWatch


class SilentConnection:
    """A connection whose server never answers."""

    error_message = None

    def __init__(self) -> None:
        self.info = self
        self.ours, self.theirs = socket.socketpair()

    def fileno(self) -> int:
        """Return the file descriptor of the client's socket."""
        return self.ours.fileno()

    def wait(self) -> None:
        """Wait for an answer, as libpq does; raises when the connection is closed."""
        if self.ours.recv(1) == b"":
            raise psycopg2.OperationalError("server closed the connection unexpectedly")

    def close(self) -> None:
        """Close both sockets."""
        self.ours.close()
        self.theirs.close()


def test_a_silent_server_raises_statement_abandoned() -> None:
    """The waiting thread gets `StatementAbandoned`, not the driver's error."""
    watch, silent = StatementWatch(limit_seconds=0.1), SilentConnection()
    with pytest.raises(StatementAbandoned, match=r"no answer within 0\.05 s"):
        watch.run(cast("connection", silent), 0.05, silent.wait)
    silent.close()
    watch.close()


def test_other_errors_pass() -> None:
    """An error of the server is raised unchanged, and the watch forgets the statement."""
    watch, silent = StatementWatch(limit_seconds=10), SilentConnection()

    def fail() -> None:
        raise psycopg2.ProgrammingError("no such table")

    with pytest.raises(psycopg2.ProgrammingError, match="no such table"):
        watch.run(cast("connection", silent), 10, fail)
    assert watch._running == set()
    silent.close()
    watch.close()


def test_an_ended_statement_is_not_cut() -> None:
    """If a statement ends while the watch checks it, the watch does not shut down the connection."""
    now = [0.0]
    watch, silent = StatementWatch(limit_seconds=10, clock=lambda: now[0]), SilentConnection()

    def end_late() -> None:
        seen.extend(watch._running)
        now[0] += 100

    seen: list[Any] = []
    watch.run(cast("connection", silent), 10, end_late)
    watch._cut_overdue(seen)

    def fail() -> None:
        raise psycopg2.ProgrammingError("no such table")

    with pytest.raises(psycopg2.ProgrammingError, match="no such table"):
        watch.run(cast("connection", silent), 10, fail)
    silent.theirs.send(b"x")
    assert silent.ours.recv(1) == b"x", "the connection is still open"
    silent.close()
    watch.close()


def test_close_ends_the_thread() -> None:
    """After `close`, the thread of the watch ends."""
    watch, silent = StatementWatch(limit_seconds=0.1), SilentConnection()
    silent.theirs.send(b"x")
    watch.run(cast("connection", silent), 10, silent.wait)
    thread = watch._thread
    assert isinstance(thread, threading.Thread)
    watch.close()
    thread.join(5)
    assert not thread.is_alive()
    silent.close()
    del watch
    gc.collect()
