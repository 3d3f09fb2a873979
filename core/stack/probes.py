"""Questions that tell whether a part of the stack answers, asked once and briefly.

Owns the probes; never waits, retries or decides what an answer means.
"""

import http.client

import psycopg2
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.stack.ports import LOOPBACK

PROBE_SECONDS = 5.0  # a server that needs longer for one trivial answer is not well

_ANY_ADDRESS = {"": LOOPBACK, "0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104 - nothing is bound here


def postgres_answers(url: str) -> bool:
    """Say whether the server at `url` accepts this login."""
    try:
        psycopg2.connect(url, connect_timeout=int(PROBE_SECONDS)).close()
    except psycopg2.OperationalError:
        return False
    return True


def valkey_answers(port: int, password: str) -> bool:
    """Say whether the server on `port` of the loopback interface accepts this password."""
    client = redis.Redis(
        host=LOOPBACK,
        port=port,
        password=password,
        socket_timeout=PROBE_SECONDS,
        socket_connect_timeout=PROBE_SECONDS,
        retry=Retry(NoBackoff(), 0),  # redis-py tries ten times by itself, which takes a minute
    )
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def http_answers(url_host: str, port: int, path: str) -> bool:
    """Say whether `path` answers 200."""
    # http.client: urllib would ask the proxy that the environment names
    connection = http.client.HTTPConnection(url_host, port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def reachable_host(listen_host: str) -> str:
    """Return the address to connect to for a server that listens on `listen_host`."""
    return _ANY_ADDRESS.get(listen_host, listen_host)
