"""Fixtures of the coherence tests: a Valkey server, and the settings of the worker processes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from core import Settings
from core.testing import ENCRYPTION_KEYS, PostgresServer, ValkeyServer, run_valkey
from tests.conftest import created_database

# Longer than any scenario, so that an old value in a near cache is read and found, and does not expire first.
NEAR_MILLISECONDS = 60_000
CONNECTIONS = 4


def make_fleet_settings(database_url: str, valkey: ValkeyServer) -> Settings:
    """Return the settings that all processes of a fleet use."""
    return Settings(
        database_url=SecretStr(database_url),
        redis_url=SecretStr(valkey.url),
        redis_password=SecretStr(valkey.password),
        encryption_keys=SecretStr(ENCRYPTION_KEYS),
        database_pool_timeout=5_000,
        database_connect_timeout=5_000,
        database_connection_limit=CONNECTIONS,
        near_cache_ttl=NEAR_MILLISECONDS,
        metrics_dir=None,
    )


@pytest.fixture(scope="package")
def fleet_valkey(server_directory: Callable[[], Path]) -> Iterator[ValkeyServer]:
    """Yield a Valkey that tests may stop."""
    with run_valkey(server_directory()) as server:
        yield server


@pytest.fixture(scope="package")
def fleet_settings(
    postgres_server: PostgresServer, template_database: str, fleet_valkey: ValkeyServer
) -> Iterator[Settings]:
    """Yield the settings that all processes of a fleet use, with a new database."""
    with created_database(postgres_server, template=template_database) as url:
        yield make_fleet_settings(url, fleet_valkey)
