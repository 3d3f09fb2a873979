"""A statement without an answer ends, with an error that says why."""

import gc
import socket
import threading
from typing import Any, cast

import psycopg2
import pytest
from psycopg2.extensions import connection

from core.database.statement_watch import StatementAbandoned, StatementWatch


class Silent:
    """A connection whose server never answers."""

    error_message = None

    def __init__(self) -> None:
        self.info = self
        self.ours, self.theirs = socket.socketpair()

    def fileno(self) -> int:
        """Return the socket."""
        return self.ours.fileno()

    def wait(self) -> None:
        """Wait for an answer, as libpq does."""
        if self.ours.recv(1) == b"":
            raise psycopg2.OperationalError("server closed the connection unexpectedly")

    def close(self) -> None:
        """Close both ends."""
        self.ours.close()
        self.theirs.close()


def test_a_silent_server_is_given_up() -> None:
    """The waiting thread gets `StatementAbandoned` instead of the driver's error."""
    watch, silent = StatementWatch(limit_seconds=0.1), Silent()
    with pytest.raises(StatementAbandoned, match=r"no answer within 0\.05 s"):
        watch.run(cast("connection", silent), 0.05, silent.wait)
    silent.close()
    watch.close()


def test_other_errors_pass() -> None:
    """Errors from the server are not changed, and the watch keeps no statement."""
    watch, silent = StatementWatch(limit_seconds=10), Silent()

    def fail() -> None:
        raise psycopg2.ProgrammingError("no such table")

    with pytest.raises(psycopg2.ProgrammingError, match="no such table"):
        watch.run(cast("connection", silent), 10, fail)
    assert watch._running == set()
    silent.close()
    watch.close()


def test_a_statement_that_ends_in_time_costs_no_later_one_its_connection() -> None:
    """The watch finds a statement that has ended, and does not cut the next one of its connection."""
    now = [0.0]
    watch, silent = StatementWatch(limit_seconds=10, clock=lambda: now[0]), Silent()

    def end_late() -> None:
        seen.extend(watch._running)
        now[0] += 100

    seen: list[Any] = []
    watch.run(cast("connection", silent), 10, end_late)
    watch._cut_late(seen)

    def fail() -> None:
        raise psycopg2.ProgrammingError("no such table")

    with pytest.raises(psycopg2.ProgrammingError, match="no such table"):
        watch.run(cast("connection", silent), 10, fail)
    silent.theirs.send(b"x")
    assert silent.ours.recv(1) == b"x", "it is not cut"
    silent.close()
    watch.close()


def test_the_watch_ends() -> None:
    """After `close` the thread ends."""
    watch, silent = StatementWatch(limit_seconds=0.1), Silent()
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
