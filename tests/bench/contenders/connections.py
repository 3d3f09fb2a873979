"""Connections for contenders whose library has no connection pool.

Owns a small pool for each of the two drivers and a Redis client. Each statement is one transaction and
one round trip. Both drivers use faster options than their defaults: psycopg 3 prepares each statement
once per connection, psycopg2 reuses its cursors.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from operator import attrgetter, methodcaller
from typing import Any, ClassVar

import psycopg
import psycopg2
import redis
from psycopg2.extras import register_uuid

from core import Settings

Row = tuple[Any, ...]


class Connections(ABC):
    """The connections of one driver; thread safe. A thread without an idle connection opens a new one."""

    driver: ClassVar[str]

    def __init__(self, settings: Settings) -> None:
        self._url = settings.database_url.get_secret_value()
        # append and pop of a deque need no lock; the cursor used last is used next
        self._idle: deque[Any] = deque()
        self._connections: deque[Any] = deque()

    def fetch(self, statement: str, parameters: Sequence[Any]) -> list[Row]:
        """Run a statement and return its rows."""
        rows: list[Row] = self._run(statement, parameters, methodcaller("fetchall"))
        return rows

    def change(self, statement: str, parameters: Sequence[Any]) -> int:
        """Run a statement and return the number of rows that it changed."""
        count: int = self._run(statement, parameters, attrgetter("rowcount"))
        return count

    def _run(self, statement: str, parameters: Sequence[Any], read: Callable[[Any], Any]) -> Any:
        try:
            cursor = self._idle.pop()
        except IndexError:
            cursor = self._open()
        cursor.execute(statement, parameters)
        result = read(cursor)
        self._idle.append(cursor)
        return result

    def _open(self) -> Any:
        connection = self._connect()
        self._connections.append(connection)
        return connection.cursor()

    @abstractmethod
    def _connect(self) -> Any:
        """Return a new connection in autocommit mode."""

    def close(self) -> None:
        """Close every connection."""
        for connection in self._connections:
            connection.close()


class Psycopg2(Connections):
    """psycopg2, whose cursors send each statement as text."""

    driver: ClassVar[str] = "psycopg2"

    def _connect(self) -> Any:
        # without this call psycopg2 returns ids as texts
        register_uuid()  # type: ignore[no-untyped-call]  # types-psycopg2 leaves it out
        connection = psycopg2.connect(self._url)
        connection.autocommit = True
        return connection


class Psycopg3(Connections):
    """psycopg 3, which prepares each statement when a connection first sees it."""

    driver: ClassVar[str] = "psycopg 3"

    def _connect(self) -> Any:
        return psycopg.connect(self._url, autocommit=True, prepare_threshold=0)


def open_redis(settings: Settings, *, number: int) -> redis.Redis:
    """Return a client for database `number` of Valkey, with the driver's default options."""
    password = settings.redis_password
    return redis.Redis.from_url(
        redis_url(settings, number=number), password=password and password.get_secret_value()
    )


def redis_url(settings: Settings, *, number: int) -> str:
    """Return the URL of database `number` of Valkey; in redis-py the URL takes precedence over arguments."""
    return settings.redis_url.get_secret_value().removesuffix("/0") + f"/{number}"
