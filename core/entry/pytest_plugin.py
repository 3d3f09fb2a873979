"""Fixtures for the tests of programs that use `core`: real servers and a service on an empty database.

pytest loads this module in every run where the package is installed. So `core.testing`, which runs the
servers, is imported only when a test uses a fixture.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from . import call_shadowed

if TYPE_CHECKING:
    from core import EnhancedDatabaseService, Settings
    from core.testing import PostgresServer, ValkeyServer


@pytest.fixture(scope="session")
def echo_markets_postgres() -> "Iterator[PostgresServer]":
    """A real PostgreSQL 18 for this run. Its `url(database)` returns a connection URL."""
    call_shadowed("refuse_shadow")
    from core.testing import serve_postgres

    with serve_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def echo_markets_valkey() -> "Iterator[ValkeyServer]":
    """A real Valkey 9 for this run, with its `url` and `password`."""
    call_shadowed("refuse_shadow")
    from core.testing import serve_valkey

    with serve_valkey() as server:
        yield server


@pytest.fixture(scope="session")
def echo_markets_database_url(echo_markets_postgres: "PostgresServer") -> str:
    """The URL of this run's database, with all migrations. `echo_markets_settings` empties the database."""
    from core.testing import create_database

    return create_database(echo_markets_postgres)


@pytest.fixture
def echo_markets_settings(echo_markets_database_url: str, echo_markets_valkey: "ValkeyServer") -> "Settings":
    """Settings for an empty database and an empty cache. The environment and `.env` are not read."""
    from core.testing import build_settings, clear_cache, clear_database

    clear_database(echo_markets_database_url)
    clear_cache(echo_markets_valkey)
    return build_settings(echo_markets_database_url, echo_markets_valkey)


@pytest.fixture
def echo_markets_environment(
    echo_markets_settings: "Settings", monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The settings as environment variables, for a program that calls `open_service()` itself.

    They are set during the test. Every other setting of the stack is unset, and `.env` is not read.
    """
    from core import Settings
    from core.testing import build_environment

    environment = build_environment(echo_markets_settings)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture
def echo_markets_service(echo_markets_settings: "Settings") -> "Iterator[EnhancedDatabaseService]":
    """A service on an empty database and an empty cache. It is closed after the test."""
    from core import open_service

    with open_service(echo_markets_settings) as service:
        yield service
