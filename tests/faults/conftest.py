"""Fixtures of the fault tests: servers that tests may break, proxies before them, and the fault table."""

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
from tests.faults.probe import FaultProbe, FaultTable
from tests.faults.proxy import Proxy, run_proxy
from tests.patience import wait_until

QUERY_TIMEOUT_MS = 1_000


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[FaultTable]:
    """Yield the fault table of a test module; write it to `tests/output` after the module's last test."""
    table = FaultTable()
    yield table
    if table:
        name = request.module.__name__.rpartition("test_")[2]
        table.write(Path(__file__).resolve().parent.parent / "output" / f"{name}.md")


class OwnValkey:
    """A Valkey server that a test may kill and start again on the same port."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = find_free_port()
        self._stack = contextlib.ExitStack()
        self.server: ValkeyServer
        self.start()

    def start(self) -> None:
        """Start the server without keys; Valkey stores nothing on disk here."""
        self.server = self._stack.enter_context(run_valkey(self._directory, port=self._port))

    def kill(self) -> None:
        """Kill the server with SIGKILL, as the kernel does when memory runs out."""
        os.kill(self.server.pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """Stop the server."""
        self._stack.close()


@pytest.fixture
def valkey(server_directory: Callable[[], Path]) -> Iterator[OwnValkey]:
    """Yield a Valkey server that only this test uses."""
    own = OwnValkey(server_directory())
    yield own
    own.stop()


@pytest.fixture
def redis_proxy(valkey: OwnValkey) -> Iterator[Proxy]:
    """Yield the proxy between the first service of `redis_probe` and Valkey."""
    with run_proxy(valkey.server.port) as proxy:
        yield proxy


@pytest.fixture(scope="package")
def own_postgres(server_directory: Callable[[], Path]) -> Iterator[PostgresServer]:
    """Yield a PostgreSQL server that a test may stop and configure; each test restores it."""
    # with synchronous_commit = off, a backend's crash would lose acknowledged writes
    options = {
        **FAST,
        "synchronous_commit": "on",
        "max_connections": "20",
        "superuser_reserved_connections": "3",
    }
    with run_postgres(server_directory(), options=options) as server:
        yield server


@pytest.fixture(scope="package")
def own_template(own_postgres: PostgresServer) -> str:
    """Create a migrated database on `own_postgres` and return its name."""
    with connected(own_postgres.url()) as run:
        run("CREATE DATABASE faults_template")
    Migrator(Settings(database_url=SecretStr(own_postgres.url("faults_template")))).up()
    return "faults_template"


@pytest.fixture
def own_database_url(own_postgres: PostgresServer, own_template: str) -> Iterator[str]:
    """Yield the URL of a migrated database on `own_postgres`, for one test."""
    with created_database(own_postgres, template=own_template) as url:
        yield url


@pytest.fixture
def postgres_proxy(own_postgres: PostgresServer) -> Iterator[Proxy]:
    """Yield the proxy between the first service of `postgres_probe` and PostgreSQL."""
    with run_proxy(own_postgres.port) as proxy:
        yield proxy


@contextmanager
def open_probe(
    through_proxy: Settings, direct: Settings, url: str, table: FaultTable
) -> Iterator[FaultProbe]:
    """Yield a probe with the profile in the near caches of both services; `url` leads past the proxy."""

    def read_row() -> str | None:
        # on a new connection: a fault may have ended the old ones
        with connected(url) as run:
            name: str | None = run("SELECT name FROM users WHERE id = %s", (user.id,))[0][0]
        return name

    with open_service(through_proxy) as service, open_service(direct) as other:
        user = service.create_user(username="alice", name="start")
        probe = FaultProbe(
            service=service,
            other=other,
            user_id=user.id,
            read_row=read_row,
            table=table,
        )
        wait_until(probe.is_healthy, "both near caches answer")
        yield probe


def on_valkey(settings: Settings, server: ValkeyServer, port: int) -> Settings:
    """Return settings that reach the Valkey server on `port`, which may be a proxy's port."""
    return settings.model_copy(
        update={
            "redis_url": SecretStr(f"redis://127.0.0.1:{port}/0"),
            "redis_password": SecretStr(server.password),
        }
    )


@pytest.fixture
def redis_probe(
    settings: Settings, valkey: OwnValkey, redis_proxy: Proxy, database_url: str, table: FaultTable
) -> Iterator[FaultProbe]:
    """Yield a probe whose first service reaches Valkey through `redis_proxy`."""
    through_proxy = on_valkey(settings, valkey.server, redis_proxy.port)
    direct = on_valkey(settings, valkey.server, valkey.server.port)
    with open_probe(through_proxy, direct, database_url, table) as probe:
        yield probe


@pytest.fixture
def postgres_probe(
    settings: Settings,
    own_postgres: PostgresServer,
    postgres_proxy: Proxy,
    own_database_url: str,
    table: FaultTable,
) -> Iterator[FaultProbe]:
    """Yield a probe whose first service reaches PostgreSQL through `postgres_proxy`."""
    bounded = settings.model_copy(
        update={"database_query_timeout": QUERY_TIMEOUT_MS, "database_connect_timeout": 2_000}
    )
    proxy_url = own_database_url.replace(f":{own_postgres.port}/", f":{postgres_proxy.port}/")
    direct = bounded.model_copy(update={"database_url": SecretStr(own_database_url)})
    through_proxy = bounded.model_copy(update={"database_url": SecretStr(proxy_url)})
    with open_probe(through_proxy, direct, own_database_url, table) as probe:
        yield probe


@pytest.fixture
def stopped() -> Callable[..., AbstractContextManager[None]]:
    """Return a context manager that stops processes (SIGSTOP) and continues them at the block's end."""

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
