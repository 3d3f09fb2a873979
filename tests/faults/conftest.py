"""Fixtures of the fault tests: servers of their own behind proxies, and the fault table."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from core import Settings, open_service
from core.migration import Migrator
from core.stack.ports import find_free_port
from core.testing import PostgresServer, ValkeyServer, run_postgres, run_valkey
from tests.conftest import FAST, connected, created_database
from tests.faults.proxy import Proxy, run_proxy
from tests.faults.subject import FaultTable, Subject
from tests.patience import wait_until

QUERY_TIMEOUT = 1_000


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[FaultTable]:
    """The fault table of a module; written to `tests/output` at its end, one file for each module."""
    table = FaultTable()
    yield table
    if table:
        name = request.module.__name__.rpartition("test_")[2]
        table.write(Path(__file__).resolve().parent.parent / "output" / f"{name}.md")


class OwnValkey:
    """A Valkey that a test may kill and start again on the same port."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = find_free_port()
        self._stack = contextlib.ExitStack()
        self.server: ValkeyServer
        self.start()

    def start(self) -> None:
        """Serve; empty, because nothing is kept on disk."""
        self.server = self._stack.enter_context(run_valkey(self._directory, port=self._port))

    def kill(self) -> None:
        """End it at once, as the kernel does when memory runs out."""
        os.kill(self.server.pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """End it."""
        self._stack.close()


@pytest.fixture
def valkey(server_directory: Callable[[], Path]) -> Iterator[OwnValkey]:
    """A Valkey of the test's own."""
    own = OwnValkey(server_directory())
    yield own
    own.stop()


@pytest.fixture
def redis_proxy(valkey: OwnValkey) -> Iterator[Proxy]:
    """The way of the subject to its Valkey; the other service goes past it."""
    with run_proxy(valkey.server.port) as proxy:
        yield proxy


@pytest.fixture(scope="package")
def own_postgres(server_directory: Callable[[], Path]) -> Iterator[PostgresServer]:
    """A PostgreSQL that tests may stop and configure; each leaves it as it was."""
    # a crash of a backend must lose nothing that was acknowledged, hence synchronous_commit
    options = {
        **FAST,
        "synchronous_commit": "on",
        "max_connections": "20",
        "superuser_reserved_connections": "3",
    }
    # a crash of a backend must lose nothing that was acknowledged, hence synchronous_commit
    with run_postgres(server_directory(), options=options) as server:
        yield server


@pytest.fixture(scope="package")
def own_template(own_postgres: PostgresServer) -> str:
    """A migrated database there."""
    with connected(own_postgres.url()) as run:
        run("CREATE DATABASE faults_template")
    Migrator(Settings(database_url=SecretStr(own_postgres.url("faults_template")))).up()
    return "faults_template"


@pytest.fixture
def own_database_url(own_postgres: PostgresServer, own_template: str) -> Iterator[str]:
    """A migrated database there."""
    with created_database(own_postgres, template=own_template) as url:
        yield url


@pytest.fixture
def postgres_proxy(own_postgres: PostgresServer) -> Iterator[Proxy]:
    """The way of the subject to its PostgreSQL; the other service goes past it."""
    with run_proxy(own_postgres.port) as proxy:
        yield proxy


@contextmanager
def opened(settings: Settings, others: Settings, url: str, table: FaultTable) -> Iterator[Subject]:
    """Open a subject: a written profile that both services have in their near caches."""

    def read_row() -> str | None:
        # on a connection of its own, which no fault has ended
        with connected(url) as run:
            name: str | None = run("SELECT name FROM users WHERE id = %s", (user.id,))[0][0]
        return name

    with open_service(settings) as service, open_service(others) as other:
        user = service.create_user(username="alice", name="start")
        subject = Subject(
            service=service,
            other=other,
            user_id=user.id,
            read_row=read_row,
            table=table,
        )
        wait_until(subject.is_healthy, "both near caches answer")
        yield subject


def on_valkey(settings: Settings, server: ValkeyServer, port: int) -> Settings:
    """Return settings with a Valkey behind a port."""
    return settings.model_copy(
        update={
            "redis_url": SecretStr(f"redis://127.0.0.1:{port}/0"),
            "redis_password": SecretStr(server.password),
        }
    )


@pytest.fixture
def cached(
    settings: Settings, valkey: OwnValkey, redis_proxy: Proxy, database_url: str, table: FaultTable
) -> Iterator[Subject]:
    """A subject whose Redis may fail."""
    mine = on_valkey(settings, valkey.server, redis_proxy.port)
    others = on_valkey(settings, valkey.server, valkey.server.port)
    with opened(mine, others, database_url, table) as subject:
        yield subject


@pytest.fixture
def stored(
    settings: Settings,
    own_postgres: PostgresServer,
    postgres_proxy: Proxy,
    own_database_url: str,
    table: FaultTable,
) -> Iterator[Subject]:
    """A subject whose PostgreSQL may fail."""
    bounded = settings.model_copy(
        update={"database_query_timeout": QUERY_TIMEOUT, "database_connect_timeout": 2_000}
    )
    way = f":{own_postgres.port}/"
    behind = SecretStr(own_database_url.replace(way, f":{postgres_proxy.port}/"))
    others = bounded.model_copy(update={"database_url": SecretStr(own_database_url)})
    mine = bounded.model_copy(update={"database_url": behind})
    with opened(mine, others, own_database_url, table) as subject:
        yield subject


@pytest.fixture
def stopped() -> Callable[..., AbstractContextManager[None]]:
    """Stop processes for the length of a `with` block."""

    @contextmanager
    def stop(*pids: int) -> Iterator[None]:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    return stop
