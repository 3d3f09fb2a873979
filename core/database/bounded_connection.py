"""A connection outside the pool on which every wait has a deadline.

For health checks and collectors, which must not use the pool that they check. Calls of psycopg2 block while
a server hangs, connect with a timeout of at least two seconds, and cannot be interrupted. In this module each
wait is a poll of the socket with a deadline. There are no transactions: each statement commits itself.
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
    """The server did not answer in time; the connection was closed."""


class BoundedConnection:
    """A connection that only one thread at a time may use; the constructor opens it."""

    def __init__(
        self,
        settings: Settings,
        application_name: str,
        *,
        limit_seconds: float,
        connector: Connector | None = None,
    ) -> None:
        """Connect within `limit_seconds`, which is also the limit of each statement; raises `psycopg2.Error`.

        Use one `connector` (of `make_connector`) for all connections to a server: it remembers whether a
        pooler refuses start-up options.
        """
        self._limit_seconds = limit_seconds
        self._deadline = time.monotonic() + limit_seconds
        connector = connector or make_connector(settings, application_name, limit_seconds=limit_seconds)
        url = connector.url
        found = {**_resolve(url), "tcp_user_timeout": round(limit_seconds * 1000)}
        self._raw = connector.with_options(lambda parameters: self._connect(url, parameters | found))
        try:
            connector.introduce(self._raw, lambda statement: self._run(statement).fetchone() or ())
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
        """The facts that the server reported when the connection was opened."""
        return self._raw.facts

    @property
    def is_usable(self) -> bool:
        """Return whether the connection is open, as far as the client knows."""
        return not self._raw.closed

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """Run a statement; return a cursor on its rows. Raises `psycopg2.Error`, such as `NoAnswer`."""
        self._deadline = time.monotonic() + self._limit_seconds
        return self._run(self._raw.unit_prefix + sql, params)

    def ping(self) -> bool:
        """Return whether the server answers."""
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
        """Wait for the answer with the loop from psycopg2's documentation of asynchronous connections."""
        while (state := raw.poll()) != POLL_OK:
            waiter = select.poll()
            waiter.register(raw.fileno(), {POLL_READ: select.POLLIN, POLL_WRITE: select.POLLOUT}[state])
            if not waiter.poll(max(0.0, self._deadline - time.monotonic()) * 1000):
                raw.close()
                raise NoAnswer(f"no answer within {self._limit_seconds:g} s")


def make_connector(settings: Settings, application_name: str, *, limit_seconds: float) -> Connector:
    """Return a connector whose connections have a statement timeout shorter than `limit_seconds`.

    So the server cancels a slow statement before the caller gives up, and the connection stays usable.
    Without this timeout the statement would still run, or wait for a lock, after its caller has given up.
    """
    return Connector(settings, application_name, statement_timeout_ms=round(limit_seconds * 900))


def _resolve(url: str) -> dict[str, str]:
    """Return libpq's parameters `host`, `hostaddr` and `port` with the addresses of the hosts of a URL.

    If libpq resolved the names, psycopg2 would block every other thread during that time: for many seconds
    if the name server does not answer. A host without an address is left out if another host has one.
    """
    parameters = parse_dsn(url)
    if "hostaddr" in parameters or "host" not in parameters:
        return {}
    hosts = parameters["host"].split(",")
    # a single port, or the default port, applies to all hosts
    ports = parameters.get("port", "").split(",")
    if len(ports) not in {1, len(hosts)}:
        # libpq reports this mistake when it connects
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
