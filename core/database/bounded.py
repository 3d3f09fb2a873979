"""A connection beside the pool, on which nothing waits longer than told.

Owns the waiting: psycopg2's own calls block for as long as a server hangs, in connecting
not less than two seconds, and a thread that waits in them cannot be ended. Here every wait
is for a socket with a deadline. For health checks and collectors, which must not use the
pool that they look at; knows no transactions, each statement is its own.
"""

import select
import socket
import time
from typing import Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, connection, parse_dsn

from core.database.database import add_options, connection_parameters
from core.settings import Settings


class NoAnswer(psycopg2.OperationalError):
    """The server did not answer in time; the connection is of no more use."""


class BoundedConnection:
    """One connection of one thread at a time; opened by the constructor."""

    def __init__(self, settings: Settings, application_name: str, *, limit_seconds: float) -> None:
        """Connect within `limit_seconds`, which bounds each statement too; raises `psycopg2.Error`."""
        self._limit_seconds = limit_seconds
        limit_ms = round(limit_seconds * 1000)
        # earlier than here: its own refusal keeps the connection usable
        server_ms = round(limit_ms * 0.9)
        url = settings.database_url.get_secret_value()
        parameters = connection_parameters(settings, application_name) | {
            # the server gives up too, instead of going on for nobody, or waiting behind a lock
            "options": add_options(url, statement_timeout_ms=server_ms),
            "tcp_user_timeout": limit_ms,
        }
        self._raw: connection = psycopg2.connect(url, async_=1, **parameters | _resolve(url))
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    @property
    def is_usable(self) -> bool:
        """Say whether the connection is open, as far as is known."""
        return not self._raw.closed

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """Run a statement; return a cursor on its rows. Raises `psycopg2.Error`, `NoAnswer` among them."""
        cursor = self._raw.cursor()
        cursor.execute(sql, params)
        self._wait()
        return cursor

    def ping(self) -> bool:
        """Say whether the server answers on it."""
        try:
            self.execute_sql("SELECT 1")
        except psycopg2.Error:
            return False
        return True

    def close(self) -> None:
        """Close it at once, whatever runs."""
        self._raw.close()

    def _wait(self) -> None:
        """Wait for the answer as psycopg2's documentation of asynchronous connections does."""
        deadline = time.monotonic() + self._limit_seconds
        while (state := self._raw.poll()) != POLL_OK:
            waiter = select.poll()
            waiter.register(self._raw.fileno(), {POLL_READ: select.POLLIN, POLL_WRITE: select.POLLOUT}[state])
            if not waiter.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self.close()
                raise NoAnswer(f"no answer within {self._limit_seconds:g} s")


def _resolve(url: str) -> dict[str, str]:
    """Return libpq's parameters with the addresses of the hosts that a URL names.

    libpq would look names up in a call in which psycopg2 keeps every other thread waiting, and
    a name server that is silent takes many seconds.
    """
    parameters = parse_dsn(url)
    if "hostaddr" in parameters or "host" not in parameters:
        return {}
    hosts = parameters["host"].split(",")
    ports = parameters.get("port", "5432").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    found = [
        (host, address, port)
        for host, port in zip(hosts, ports, strict=True)
        for address in _list_addresses(host)
    ]
    names = ("host", "hostaddr", "port")
    return {name: ",".join(values) for name, values in zip(names, zip(*found, strict=True), strict=True)}


def _list_addresses(host: str) -> list[str]:
    if not host or host.startswith(("/", "@")):
        # a socket of this machine has no address
        return [""]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise psycopg2.OperationalError("the host of DATABASE_URL has no address") from error
    return [str(address[0]) for *_, address in found]
