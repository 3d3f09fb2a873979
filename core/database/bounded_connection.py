"""A PostgreSQL connection outside the pool. Every call on it ends within a time limit.

For health checks and collectors, which must not use the pool that they check. psycopg2's ordinary calls do
not suit them: they block while a server hangs, nothing can interrupt them, and a connect timeout below two
seconds is not possible. This module polls the socket until a deadline. There are no transactions: each
statement commits itself.
"""

import select
import socket
import time
from typing import Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, parse_dsn

from core.database.connector import Connector, ServerConnection
from core.database.session_settings import SessionFacts
from core.settings import Settings


class NoAnswer(psycopg2.OperationalError):
    """The server did not answer in time, and the connection was closed."""


class BoundedConnector:
    """Opens connections to DATABASE_URL on which every call ends within a time limit."""

    def __init__(self, settings: Settings, application_name: str, *, limit_seconds: float) -> None:
        """Open no connection yet. `limit_seconds` is the limit for connecting, and for each statement."""
        self._limit_seconds = limit_seconds
        # With this timeout the server cancels a slow statement before the caller gives up, and the connection
        # stays usable. Without it the statement could run, or wait for a lock, after the caller has given up.
        self._connector = Connector(
            settings, application_name, statement_timeout_ms=round(limit_seconds * 900)
        )

    def open(self) -> "BoundedConnection":
        """Open a connection. Raises `psycopg2.Error`."""
        return BoundedConnection(self._connector, limit_seconds=self._limit_seconds)


class BoundedConnection:
    """A connection for one thread at a time, opened by `BoundedConnector`."""

    def __init__(self, connector: Connector, *, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._deadline = time.monotonic() + limit_seconds
        url = connector.url
        found = {**_resolve(url), "tcp_user_timeout": round(limit_seconds * 1000)}
        self._raw = connector.with_options(lambda parameters: self._connect(url, parameters | found))
        try:
            connector.probe_session(self._raw, lambda statement: self._run(statement).fetchone() or ())
        except BaseException:
            self.close()
            raise

    def _connect(self, url: str, parameters: dict[str, Any]) -> ServerConnection:
        raw: ServerConnection = psycopg2.connect(
            url, async_=1, connection_factory=ServerConnection, **parameters
        )
        try:
            self._wait(raw)
        except BaseException:
            raw.close()
            raise
        return raw

    @property
    def facts(self) -> SessionFacts:
        """Facts that the server reported about the session at its start, for example its schema."""
        return self._raw.facts

    @property
    def is_usable(self) -> bool:
        """Whether the connection is open, as far as the client knows."""
        return not self._raw.closed

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """Run a statement and return a cursor with its rows. Raises `NoAnswer` or other `psycopg2.Error`s."""
        self._deadline = time.monotonic() + self._limit_seconds
        return self._run(self._raw.unit_prefix + sql, params)

    def ping(self) -> bool:
        """Return whether the server answers a query within the time limit."""
        try:
            self.execute_sql("SELECT 1")
        except psycopg2.Error:
            return False
        return True

    def close(self) -> None:
        """Close the connection immediately, even while a statement runs."""
        self._raw.close()

    def _run(self, sql: str, params: Any = None) -> Any:
        cursor = self._raw.cursor()
        cursor.execute(sql, params)
        self._wait(self._raw)
        return cursor

    def _wait(self, raw: ServerConnection) -> None:
        """Wait until the server has answered. Raises `NoAnswer` at the deadline.

        Source of the loop: psycopg2's documentation, asynchronous support.
        """
        while (state := raw.poll()) != POLL_OK:
            waiter = select.poll()
            waiter.register(raw.fileno(), {POLL_READ: select.POLLIN, POLL_WRITE: select.POLLOUT}[state])
            if not waiter.poll(max(0.0, self._deadline - time.monotonic()) * 1000):
                raw.close()
                raise NoAnswer(f"no answer within {self._limit_seconds:g} s")


def _resolve(url: str) -> dict[str, str]:
    """Resolve the host names in a URL. Return the addresses as libpq's parameters.

    libpq could resolve the names itself, but psycopg2 would block every other thread meanwhile: for many
    seconds if the name server does not answer. A host without an address is left out. If no host has an
    address, `psycopg2.OperationalError` is raised.
    """
    parameters = parse_dsn(url)
    if "hostaddr" in parameters or "host" not in parameters:
        return {}
    hosts = parameters["host"].split(",")
    # one port in the URL, or none, applies to all hosts
    ports = parameters.get("port", "").split(",")
    if len(ports) not in {1, len(hosts)}:
        # libpq reports a wrong number of ports when it connects
        return {}
    found = [
        (host, address, ports[place % len(ports)])
        for place, host in enumerate(hosts)
        for address in _list_addresses(host)
    ]
    if not found:
        raise psycopg2.OperationalError("the host of the URL has no address")
    names = ("host", "hostaddr", "port") if len(ports) > 1 else ("host", "hostaddr")
    return {name: ",".join(values) for name, values in zip(names, zip(*found, strict=True), strict=False)}


def _list_addresses(host: str) -> list[str]:
    if not host or host.startswith(("/", "@")):
        # a Unix socket has no address
        return [""]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(address[0]) for *_, address in found]
