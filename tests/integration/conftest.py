"""Fixtures of the integration tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core import EnhancedDatabaseService
from core.records import User
from core.testing import PostgresServer
from tests.conftest import Execute, connected, created_database
from tests.matrix.servers import run_debian_postgres
from tests.roles import give_to_roles


@pytest.fixture
def empty_execute(empty_database_url: str) -> Iterator[Execute]:
    """Yield a function that runs SQL in a database without tables."""
    with connected(empty_database_url) as run:
        yield run


@pytest.fixture
def alice(service: EnhancedDatabaseService) -> User:
    """Return the player alice, who has a name and an e-mail address."""
    return service.create_user(username="alice", name="Alice Adams", email="alice@example.com")


@pytest.fixture
def bob(service: EnhancedDatabaseService) -> User:
    """Return the player bob."""
    return service.create_user(username="bob")


@pytest.fixture
def charlie(service: EnhancedDatabaseService) -> User:
    """Return the player charlie."""
    return service.create_user(username="charlie")


@pytest.fixture
def released_pages() -> Iterator[None]:
    """After the test, remove the service, the sampler and the access policy that dashboard pages use."""
    yield
    # imported here, because most tests need no dashboard
    from dashboard import runtime  # noqa: PLC0415
    from dashboard.monitoring.sampler import set_sampler  # noqa: PLC0415
    from dashboard.server import sign_in  # noqa: PLC0415
    from dashboard.server.access import Policy  # noqa: PLC0415

    runtime.set_service(None)
    set_sampler(None)
    sign_in.set_policy(Policy())


ROLE_SERVERS = ("PostgreSQL 18", "Debian's")


@pytest.fixture(scope="module", params=ROLE_SERVERS)
def roles_url(
    request: pytest.FixtureRequest, postgres_server: PostgresServer, server_directory: Callable[[], Path]
) -> Iterator[str]:
    """Yield a superuser's URL of a migrated database that belongs to the owner role.

    The tests run once for each of `ROLE_SERVERS`.
    """
    if request.param == ROLE_SERVERS[0]:
        with created_database(postgres_server) as url:
            give_to_roles(url)
            yield url
    else:
        with run_debian_postgres(server_directory()) as server, created_database(server) as url:
            give_to_roles(url)
            yield url
