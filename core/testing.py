"""Real servers for the tests of programs that use `core`.

Owns the database and the cache of a test run, and what they are like at the begin of a test. Never
touches a configured server: settings for tests are built from the servers here alone. The fixtures
are in `core/entry/pytest_plugin.py`.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg2
import psycopg2.extensions
import redis
from psycopg2 import sql
from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from core.migration import HISTORY_TABLE, Migrator
from core.settings import Settings
from core.stack.servers import PostgresServer, ValkeyServer, run_postgres, run_valkey

# Durability is not under test, and costs most of a small transaction.
FAST = MappingProxyType({"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"})
DATABASE = "echo_markets_tests"
# A test that waits for a connection or a server that it has stopped should fail within its patience.
TIMEOUT_MS = 5_000

# Whoever a test has left connected may hold locks.
DISCONNECT_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
LIST_TABLES = """
    SELECT relname FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
      AND relname <> %s"""


class GivenSettings(Settings):
    """Settings that are what was given: neither the environment nor a file counts."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # as above
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # as above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave out everything but the arguments."""
        return (init_settings,)


@contextmanager
def serve_postgres() -> Iterator[PostgresServer]:
    """Serve an empty PostgreSQL 18, fast and forgetful, in a folder of its own."""
    # not below pytest's folder: another run of the same user would shut the server out of it
    with (
        tempfile.TemporaryDirectory(prefix="echo-markets-") as folder,
        run_postgres(Path(folder), options=FAST) as server,
    ):
        yield server


@contextmanager
def serve_valkey() -> Iterator[ValkeyServer]:
    """Serve an empty Valkey 9 in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="echo-markets-") as folder, run_valkey(Path(folder)) as server:
        yield server


def create_database(server: PostgresServer, name: str = DATABASE) -> str:
    """Create a database with every migration applied; return its URL."""
    with _statements(server.url()) as cursor:
        cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = server.url(name)
    Migrator(GivenSettings(database_url=SecretStr(url))).up()
    return url


def clear_database(url: str) -> None:
    """Delete every row, and disconnect whoever is connected.

    Takes a few milliseconds: TRUNCATE, or a copy of an empty database, takes ten times as long and more.
    """
    with _statements(url) as cursor:
        cursor.execute(DISCONNECT_OTHERS)
        cursor.execute(LIST_TABLES, (HISTORY_TABLE,))
        tables = [sql.Identifier(name) for (name,) in cursor.fetchall()]
        # neither foreign keys nor triggers have to follow what goes as a whole
        cursor.execute("SET session_replication_role = replica")
        for table in tables:
            cursor.execute(sql.SQL("DELETE FROM {}").format(table))


def clear_cache(server: ValkeyServer) -> None:
    """Delete every key."""
    with redis.Redis.from_url(server.url, password=server.password) as client:
        client.flushall()


def build_settings(database_url: str, valkey: ValkeyServer, **settings: Any) -> Settings:
    """Return settings for these servers with short timeouts; `settings` win."""
    given = {
        "database_url": SecretStr(database_url),
        "redis_url": SecretStr(valkey.url),
        "redis_password": SecretStr(valkey.password),
        "database_connect_timeout": TIMEOUT_MS,
        "database_pool_timeout": TIMEOUT_MS,
    }
    return GivenSettings(**{**given, **settings})


def build_environment(settings: Settings) -> dict[str, str]:
    """Return the variables of the environment that say the same as `settings` of `build_settings`."""
    values = settings.model_dump(exclude_unset=True)
    return {
        name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in values.items()
    }


@contextmanager
def _statements(url: str) -> Iterator[psycopg2.extensions.cursor]:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()
