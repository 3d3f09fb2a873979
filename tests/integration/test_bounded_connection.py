"""Tests of `BoundedConnection`: connecting and statements take no longer than the limit."""

import contextlib
import socket
import threading
import time
from typing import Any

import psycopg2
import pytest
from pydantic import SecretStr

from core import Settings
from core.database.bounded_connection import BoundedConnection, BoundedConnector, NoAnswer
from core.stack.ports import find_free_port
from core.testing import PostgresServer
from tests.patience import stretch

LIMIT_SECONDS = 0.5


def connect(
    settings: Settings, url: str | None = None, limit_seconds: float = LIMIT_SECONDS
) -> BoundedConnection:
    """Open a connection with a limit of 0.5 s, or of `limit_seconds`."""
    if url is not None:
        settings = settings.model_copy(update={"database_url": SecretStr(url)})
    return BoundedConnector(settings, "echo-markets-test", limit_seconds=limit_seconds).open()


def test_a_statement_is_cancelled_by_the_server_first(settings: Settings) -> None:
    """The server cancels a slow statement before the limit, so the connection stays usable."""
    # the server has a part of the limit to cancel the statement: with 4 s even a busy server is in time
    with contextlib.closing(connect(settings, limit_seconds=4)) as connection:
        with pytest.raises(psycopg2.errors.QueryCanceled):
            connection.execute_sql("SELECT pg_sleep(30)")
        assert connection.is_usable
        assert connection.execute_sql(
            "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        ).fetchall() == [("echo-markets-test",)]


def test_an_error_leaves_the_connection_usable(settings: Settings) -> None:
    """After a failed statement the next one works, because each statement is a separate transaction."""
    with contextlib.closing(connect(settings)) as connection:
        with pytest.raises(psycopg2.errors.DivisionByZero):
            connection.execute_sql("SELECT 1 / 0")
        assert connection.execute_sql("SELECT %s::int", (7,)).fetchall() == [(7,)]


def test_a_silent_server_times_out(settings: Settings) -> None:
    """A server that accepts the connection and sends nothing raises `NoAnswer` after 0.5 s.

    psycopg2 alone would wait at least 2 s.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        with pytest.raises(NoAnswer, match=r"no answer within 0\.5 s"):
            connect(settings, f"postgresql://echo@127.0.0.1:{server.getsockname()[1]}/echo")
        assert LIMIT_SECONDS - 0.05 <= time.monotonic() - started < stretch(LIMIT_SECONDS + 1)


def test_every_address_of_every_host_is_tried(settings: Settings, postgres_server: PostgresServer) -> None:
    """The connector tries each host of the URL and each of its addresses until one answers, as libpq does."""
    url, nobody = settings.database_url.get_secret_value(), find_free_port()
    port = postgres_server.port
    with contextlib.closing(connect(settings, url.replace("127.0.0.1", "localhost"))) as connection:
        assert connection.ping()
    two = url.replace(f"127.0.0.1:{port}", f"127.0.0.1:{nobody},localhost:{port}")
    with contextlib.closing(connect(settings, two)) as connection:
        assert connection.ping()


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70 + ".invalid"])
def test_a_name_without_an_address_is_an_error(settings: Settings, host: str) -> None:
    """The error for an unknown host name does not contain the name, because the health document shows it."""
    with pytest.raises(psycopg2.OperationalError, match="has no address") as error:
        connect(settings, f"postgresql://echo@{host}/echo")
    assert host not in str(error.value)


def test_a_slow_name_lookup_does_not_block_other_threads(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host name is resolved in Python, which releases the GIL, and libpq gets only the address."""
    url = settings.database_url.get_secret_value()
    lookup_began, may_answer = threading.Event(), threading.Event()
    resolve = socket.getaddrinfo

    def slow(host: str, *arguments: Any, **options: Any) -> Any:
        assert host == "database.invalid"
        lookup_began.set()
        assert may_answer.wait(10)
        return resolve("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    found: list[bool] = []

    def connect_and_ping() -> None:
        # libpq alone would find no address for the name `database.invalid`
        with contextlib.closing(
            connect(settings, url.replace("127.0.0.1", "database.invalid"))
        ) as connection:
            found.append(connection.ping())

    thread = threading.Thread(target=connect_and_ping)
    thread.start()
    assert lookup_began.wait(10)
    may_answer.set()
    thread.join()
    assert found == [True]
