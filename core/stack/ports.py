"""TCP ports of this machine: whether a port is free, and whether a server answers on it.

Each check tries once, without waits or retries. A check does not reserve a port: another program can still
take the port before it is used.
"""

import socket
from collections.abc import Mapping
from http import HTTPStatus

import psycopg2
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.errors import StackError
from core.http_client import FetchFailed, fetch
from core.settings.texts import LOOPBACK

PROBE_SECONDS = 5.0  # a server that needs longer than this to answer a probe is not healthy


def find_free_port() -> int:
    """Return a port of the loopback interface on which no program listens now."""
    with socket.create_server((LOOPBACK, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def is_port_free(port: int, *, host: str = LOOPBACK) -> bool:
    """Return whether a server can listen on `port` of the address `host` now."""
    try:
        # create_server sets SO_REUSEADDR, so old connections in TIME_WAIT do not make the port look taken
        with socket.create_server((host, port)):
            return True
    except OSError:
        return False


def check_ports(ports: Mapping[str, int], *, hosts: Mapping[str, str]) -> None:
    """Raise `StackError` if a port is taken. The keys of `ports` are settings, such as POSTGRES_PORT.

    `hosts` has, by the same keys, the addresses of servers that do not listen on the loopback interface.
    """
    taken = [name for name, port in ports.items() if not is_port_free(port, host=hosts.get(name, LOOPBACK))]
    if taken:
        lines = (f"port {ports[name]} is taken; set {name} to a free one" for name in taken)
        raise StackError("\n".join(lines))


def postgres_answers(url: str) -> bool:
    """Return whether PostgreSQL at `url` accepts a connection with the user and password in `url`."""
    try:
        psycopg2.connect(url, connect_timeout=int(PROBE_SECONDS)).close()
    except psycopg2.OperationalError:
        return False
    return True


def valkey_answers(port: int, password: str) -> bool:
    """Return whether the Valkey server on `port` of the loopback interface answers and accepts `password`."""
    client = redis.Redis(
        host=LOOPBACK,
        port=port,
        password=password,
        socket_timeout=PROBE_SECONDS,
        socket_connect_timeout=PROBE_SECONDS,
        retry=Retry(NoBackoff(), 0),  # redis-py retries ten times by default, which takes a minute
    )
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def http_answers(url: str) -> bool:
    """Return whether the server answers a GET of `url` with status 200."""
    try:
        return fetch(url, timeout_seconds=PROBE_SECONDS).status == HTTPStatus.OK
    except FetchFailed:
        return False
