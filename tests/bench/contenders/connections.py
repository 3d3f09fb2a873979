"""Connections that contenders without a library of their own are given.

Owns a pool of psycopg2 connections and a Redis client, both as their drivers make them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from psycopg2.extensions import connection
from psycopg2.extras import register_uuid
from psycopg2.pool import ThreadedConnectionPool

from core import Settings


class Connections:
    """What talks to the servers; thread safe."""

    def __init__(self, settings: Settings, *, number: int) -> None:
        # or ids would come as texts
        register_uuid()  # type: ignore[no-untyped-call]  # types-psycopg2 leaves it out
        limit = settings.database_connection_limit
        self._pool = ThreadedConnectionPool(limit, limit, settings.database_url.get_secret_value())
        self.redis = open_redis(settings, number=number)

    @contextmanager
    def borrow(self) -> Iterator[connection]:
        """Lend a connection on which each statement is committed at once."""
        raw = self._pool.getconn()
        if not raw.autocommit:
            raw.autocommit = True
        try:
            yield raw
        finally:
            self._pool.putconn(raw)

    @contextmanager
    def transaction(self) -> Iterator[connection]:
        """Lend a connection; what runs on it is committed at the end."""
        raw = self._pool.getconn()
        if raw.autocommit:
            raw.autocommit = False
        try:
            with raw:
                yield raw
        finally:
            self._pool.putconn(raw)

    def close(self) -> None:
        """Close every connection."""
        self._pool.closeall()
        self.redis.close()


def open_redis(settings: Settings, *, number: int) -> redis.Redis:
    """Return a client of one database of Valkey, with the driver's own options."""
    password = settings.redis_password
    return redis.Redis.from_url(
        redis_url(settings, number=number), password=password and password.get_secret_value()
    )


def redis_url(settings: Settings, *, number: int) -> str:
    """Return the URL of one database of Valkey; a number in the URL wins over every argument."""
    return settings.redis_url.get_secret_value().removesuffix("/0") + f"/{number}"
