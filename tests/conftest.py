"""Fixtures on real servers: one embedded PostgreSQL and one Valkey per run, a new database for each test.

No test connects to the developer's database: every setting is removed from the environment before the first
test, and all URLs lead to the embedded servers.
"""

import itertools
import os
import signal
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import psycopg2
import pytest
import redis
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service, testing
from core.database.roles import APP, OWNER, create_roles, open_administrator
from core.metrics import Metrics
from core.migration import Migrator
from core.settings import RoleSettings
from core.stack.settings import StackSettings
from core.testing import PostgresServer, ValkeyServer
from tests.hosts import Host, HostNotPossible, run_host
from tests.roles import PASSWORDS, give_to_roles, url_with_password

Execute = Callable[..., list[tuple[Any, ...]]]

# Test machines are busy, so a slow Hypothesis example must not count as a failure.
hypothesis.settings.register_profile("noisy", deadline=None)
hypothesis.settings.load_profile("noisy")

TEMPLATE = "echo_template"
FAST = testing.FAST
KEYS = testing.ENCRYPTION_KEYS

AS_APP = "TESTS_AS_APP" in os.environ
"""True if services of tests connect as the application role, not as superuser (`make test-as-app`)."""

# Ends a statement that waits for a lock of the same test: pytest-timeout cannot interrupt the driver.
STATEMENT_TIMEOUT = "-c statement_timeout=120s"


# Environment variables of the developer's terminal that change the output of commands.
TERMINAL_VARIABLES = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


@pytest.fixture(scope="session", autouse=True)
def _default_signals() -> None:
    """Restore default signal handlers, so that processes started by tests can be interrupted.

    A background job of a shell ignores SIGINT, and a command started with `nohup` ignores SIGHUP; child
    processes inherit the ignored signals.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            default = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> Iterator[None]:
    """Run the tests without the developer's settings, `.env` files and terminal variables."""
    kinds = (Settings, StackSettings, RoleSettings)
    settings = [name.upper() for kind in kinds for name in kind.model_fields]
    names = (*settings, *(f"{name}_FILE" for name in settings), *TERMINAL_VARIABLES)
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    files = Settings.model_config.get("env_file")
    Settings.model_config["env_file"] = None
    yield
    Settings.model_config["env_file"] = files
    os.environ.update(saved)


@pytest.fixture(autouse=True)
def _main_module() -> Iterator[None]:
    """Restore `__main__`, which a page under test replaces: a spawned process would run that page."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture(autouse=True)
def _balance_of_cache_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Assert after every test that requests = hits + misses + bypasses in each cache and tier."""
    opened: list[Metrics] = []
    define = Metrics.__init__

    def record(metrics: Metrics, *arguments: Any, **options: Any) -> None:
        define(metrics, *arguments, **options)
        opened.append(metrics)

    monkeypatch.setattr(Metrics, "__init__", record)
    yield
    for metrics in opened:
        metrics.publish()
        assert not find_imbalances(metrics)


def find_imbalances(metrics: Metrics) -> list[str]:
    """Return the caches and tiers whose number of requests is not hits + misses + bypasses.

    Only the shared cache counts bypasses; an unusable near cache counts no requests.
    """
    rest: Counter[str] = Counter()
    signs = {"requests": 1, "hits": -1, "misses": -1, "bypasses": -1}
    for family in metrics.collect_own():
        sign = signs.get(family.name.removeprefix("echo_cache_"), 0)
        for sample in family.samples if sign else ():
            tier = f"{sample.labels['cache']} {sample.labels.get('tier', 'shared')}"
            rest[tier] += sign * int(sample.value)
    return [f"{tier}: {count}" for tier, count in rest.items() if count]


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Callable[[], Path]]:
    """Yield a function that creates folders for servers; PostgreSQL's account cannot enter `tmp_path`."""
    with tempfile.TemporaryDirectory(prefix="echo-markets-") as root:
        numbers = itertools.count()

        def make() -> Path:
            directory = Path(root) / str(next(numbers))
            directory.mkdir()
            return directory

        yield make


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Yield a PostgreSQL server that runs until the end of the test run."""
    with testing.serve_postgres() as server:
        if AS_APP:
            with open_administrator(server.url()) as admin:
                create_roles(admin, PASSWORDS)
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """Yield a Valkey server that runs until the end of the test run."""
    with testing.serve_valkey() as server:
        yield server


@contextmanager
def administered(server: PostgresServer) -> Iterator[Callable[[str], None]]:
    """Yield a function that runs SQL as superuser, in autocommit."""
    connection = psycopg2.connect(server.url())
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            yield cursor.execute
    finally:
        connection.close()


@contextmanager
def created_database(server: PostgresServer, *, template: str = "template1") -> Iterator[str]:
    """Create a database, yield its URL, and drop the database at the end of the block."""
    name = f"test_{uuid.uuid4().hex}"
    with administered(server) as execute:
        # CREATE DATABASE does not copy the owner of the template
        owner = f" OWNER {OWNER}" if AS_APP and template == TEMPLATE else ""
        execute(f"CREATE DATABASE {name} TEMPLATE {template}{owner}")
    try:
        yield server.url(name)
    finally:
        with administered(server) as execute:
            execute(f"DROP DATABASE {name} WITH (FORCE)")


RowVersions = list[tuple[Any, ...]]


def read_row_versions(execute: Execute) -> RowVersions:
    """Return each table's row count, sum of xmin and maximum xmin; every write changes one of the three."""
    tables = execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    parts = (
        f"SELECT '{name}', count(*), sum(xmin::text::bigint), max(xmin::text::bigint) FROM {name}"
        for [name] in tables
    )
    return sorted(execute(" UNION ALL ".join(parts)), key=str)


@pytest.fixture(scope="session")
def template_database(postgres_server: PostgresServer) -> str:
    """Create a migrated database and return its name; each test's database is a copy of it."""
    with administered(postgres_server) as execute:
        execute(f"CREATE DATABASE {TEMPLATE}")
    url = postgres_server.url(TEMPLATE)
    if AS_APP:
        give_to_roles(url)
    else:
        Migrator(Settings(database_url=SecretStr(url))).up()
    return TEMPLATE


@pytest.fixture
def empty_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Yield the URL of a database without tables."""
    with created_database(postgres_server) as url:
        yield url


@pytest.fixture
def database_url(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """Yield the URL of a migrated database without rows."""
    with created_database(postgres_server, template=template_database) as url:
        yield url


@pytest.fixture
def settings(database_url: str, valkey_server: ValkeyServer) -> Settings:
    """Return settings with a database of this test alone, an emptied Valkey and short timeouts."""
    settings = Settings(
        database_url=SecretStr(url_with_password(APP, database_url) if AS_APP else database_url),
        direct_url=SecretStr(url_with_password(OWNER, database_url)) if AS_APP else None,
        redis_url=SecretStr(valkey_server.url),
        redis_password=SecretStr(valkey_server.password),
        encryption_keys=SecretStr(KEYS),
        database_pool_timeout=5_000,
        database_connect_timeout=5_000,
    )
    with redis.Redis.from_url(valkey_server.url, password=valkey_server.password) as client:
        client.flushall()
    return settings


@pytest.fixture
def service(settings: Settings) -> Iterator[EnhancedDatabaseService]:
    """Yield a service on a migrated database without rows and an empty Valkey."""
    with open_service(settings) as service:
        yield service


@pytest.fixture
def redis_client(settings: Settings, valkey_server: ValkeyServer) -> Iterator[redis.Redis]:
    """Yield a Redis client that is connected directly to the test's Valkey."""
    with redis.Redis.from_url(valkey_server.url, password=valkey_server.password) as client:
        yield client


@contextmanager
def connected(url: str) -> Iterator[Execute]:
    """Yield a function that runs SQL on a connection of its own, in autocommit, and returns the rows."""
    connection = psycopg2.connect(url, options=STATEMENT_TIMEOUT)
    connection.autocommit = True

    def run(statement: str, parameters: object = None) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)  # type: ignore[arg-type]  # checked by the driver
            return cursor.fetchall() if cursor.description else []

    try:
        yield run
    finally:
        connection.close()


@pytest.fixture
def execute(database_url: str) -> Iterator[Execute]:
    """Yield a function that runs SQL on the test's database without the service and returns the rows."""
    with connected(database_url) as run:
        yield run


@pytest.fixture
def other_host() -> Iterator[Host]:
    """Yield a host that the test can cut off; skip the test where network namespaces cannot be created."""
    with ExitStack() as stack:
        try:
            host = stack.enter_context(run_host())
        except HostNotPossible as error:
            pytest.skip(str(error))
        yield host


@pytest.fixture
def repository() -> Path:
    """Return the root folder of the checkout."""
    return Path(__file__).resolve().parent.parent
