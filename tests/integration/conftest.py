"""Fixtures of the integration tests."""

from collections.abc import Iterator

import pytest

from core import EnhancedDatabaseService
from core.records import User
from tests.conftest import Execute, connected


@pytest.fixture
def empty_execute(empty_database_url: str) -> Iterator[Execute]:
    """Run SQL on a database without any table."""
    with connected(empty_database_url) as run:
        yield run


@pytest.fixture
def alice(service: EnhancedDatabaseService) -> User:
    """A player."""
    return service.create_user(username="alice", name="Alice Adams", email="alice@example.com")


@pytest.fixture
def bob(service: EnhancedDatabaseService) -> User:
    """Another player."""
    return service.create_user(username="bob")


@pytest.fixture
def charlie(service: EnhancedDatabaseService) -> User:
    """A third player."""
    return service.create_user(username="charlie")
