"""Fixtures with a migrated database on each variant of server, and the results of a plain server."""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote

import psycopg2
import pytest
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.migration import Migrator
from core.settings.texts import LOOPBACK
from core.testing import ENCRYPTION_KEYS, PostgresServer
from tests.conftest import administered, connected
from tests.matrix.answers import play
from tests.matrix.servers import run_debian_postgres, run_pgbouncer

NOTHING: Mapping[str, str] = MappingProxyType({})
# Settings that an administrator may have changed, and on which no query may depend.
ODD_DEFAULTS = {
    "timezone": "'America/St_Johns'",
    "datestyle": "'German, DMY'",
    "intervalstyle": "'iso_8601'",
    "default_transaction_isolation": "'serializable'",
    "default_transaction_deferrable": "on",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "bytea_output": "'escape'",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "extra_float_digits": "-15",
    "lock_timeout": "'1ms'",
    "row_security": "off",
    "jit": "on",
}
# Settings and temporary tables that another client of a transaction pooler may leave in a session.
SETTINGS_LEFT_BEHIND = """
    SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'SQL, DMY'; SET statement_timeout = '200ms';
    SET search_path = pg_catalog; SET default_transaction_isolation = 'repeatable read'"""
TABLES_LEFT_BEHIND = """
    CREATE TEMPORARY TABLE users (id int); CREATE TEMPORARY TABLE ticks (id int);
    CREATE TEMPORARY TABLE staged_ticks (id int); CREATE TEMPORARY TABLE moving_ticks (id int)"""
ROLE_PASSWORD = "of echo"  # a password for tests
SESSIONS_OF_POOLER = 3


class Target(NamedTuple):
    """A migrated database: settings for the service, and a direct URL for its administrator."""

    settings: Settings
    administrator_url: str


class Variant(NamedTuple):
    """A kind of server. `pooler` has the settings of a PgBouncer in front of it; None: no pooler."""

    is_debian: bool = False
    pooler: Mapping[str, str] | None = None
    has_odd_defaults: bool = False
    has_own_schema: bool = False
    locale: str = ""
    has_tls: bool = False


UTF8_C = "LOCALE_PROVIDER libc LOCALE 'C'"
VARIANTS = {
    "PostgreSQL 18": Variant(),
    "Debian's PostgreSQL": Variant(is_debian=True),
    "other defaults": Variant(has_odd_defaults=True),
    "role with its schema alone": Variant(has_own_schema=True),
    "locale C": Variant(locale=UTF8_C),
    "locale ICU, Turkish": Variant(is_debian=True, locale="LOCALE_PROVIDER icu ICU_LOCALE 'tr' LOCALE 'C'"),
    "PgBouncer": Variant(pooler=NOTHING),
    "PgBouncer, options ignored": Variant(pooler={"ignore_startup_parameters": "options"}),
    "PgBouncer, everything at once": Variant(
        is_debian=True,
        pooler={"ignore_startup_parameters": "options,extra_float_digits"},
        has_odd_defaults=True,
        has_own_schema=True,
    ),
    "PgBouncer, sessions reset": Variant(
        pooler={"server_reset_query_always": "1"}, has_odd_defaults=True, has_own_schema=True
    ),
    "PgBouncer, session mode": Variant(
        pooler={"pool_mode": "session", "default_pool_size": "20"}, has_odd_defaults=True
    ),
}


@pytest.fixture(scope="session")
def debian_server(server_directory: Callable[[], Path]) -> Iterator[PostgresServer]:
    """Yield Debian's PostgreSQL, which is started for the first test that needs it."""
    with run_debian_postgres(server_directory()) as server:
        yield server


@pytest.fixture
def make_target(
    request: pytest.FixtureRequest, postgres_server: PostgresServer, server_directory: Callable[[], Path]
) -> Iterator[Callable[[Variant], Target]]:
    """Yield a function that creates a migrated database on a variant of server."""
    with ExitStack() as stack:

        def make(variant: Variant) -> Target:
            server = request.getfixturevalue("debian_server") if variant.is_debian else postgres_server
            return stack.enter_context(created_target(server, server_directory(), variant))

        yield make


@contextmanager
def created_target(server: PostgresServer, directory: Path, variant: Variant) -> Iterator[Target]:
    """Yield a migrated database on a variant of server, with its own role, and its pooler if it has one."""
    name, role = f"matrix_{uuid.uuid4().hex}", f"echo_{uuid.uuid4().hex[:8]}"
    accounts = {"postgres": server.password, role: ROLE_PASSWORD}
    with ExitStack() as stack:
        run = stack.enter_context(administered(server))
        run(f"CREATE DATABASE {name} ENCODING 'UTF8' {variant.locale} TEMPLATE template0")
        stack.callback(run, f"DROP ROLE {role}")
        stack.callback(run, f"DROP DATABASE {name} WITH (FORCE)")
        run(f"CREATE ROLE {role} LOGIN PASSWORD '{ROLE_PASSWORD}'")
        if variant.has_own_schema:
            # the role can create neither temporary tables nor schemas
            run(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
            run(f"GRANT CONNECT ON DATABASE {name} TO {role}")
        for setting, value in ODD_DEFAULTS.items() if variant.has_odd_defaults else ():
            run(f"ALTER DATABASE {name} SET {setting} = {value}")
        if variant.has_own_schema:
            _add_another_application(server, name, role)
        port = server.port
        if variant.pooler is not None:
            options = {"default_pool_size": str(SESSIONS_OF_POOLER), **variant.pooler}
            port = stack.enter_context(run_pgbouncer(directory, server, accounts, **options))
        user = role if variant.has_own_schema else "postgres"
        url = f"postgresql://{user}:{quote(accounts[user])}@{LOOPBACK}:{port}/{name}"
        if variant.has_own_schema:
            url += "?options=-csearch_path%3Decho,public"
        if variant.has_tls:
            url += "?sslmode=require"
        settings = Settings(
            database_url=SecretStr(url),
            encryption_keys=SecretStr(ENCRYPTION_KEYS),
            enable_redis_cache=False,
            database_pool_timeout=20_000,
        )
        Migrator(settings).up()
        if variant.pooler is not None and variant.pooler.get("pool_mode") != "session":
            leave_session_state(url)
        yield Target(settings, server.url(name))


def _add_another_application(server: PostgresServer, database: str, role: str) -> None:
    """Create a schema for the role, and tables of another application with the same names in `public`."""
    with connected(server.url(database)) as run:
        run(f"CREATE SCHEMA echo AUTHORIZATION {role}")
        run(
            "CREATE TABLE public.users (id serial PRIMARY KEY, username text, name text, preferences jsonb);"
            " CREATE TABLE public.ticks (symbol text, timestamp timestamp, price numeric);"
            " CREATE TABLE public.schema_migration (id serial, name text, applied timestamp);"
            " CREATE TABLE public.leaderboard_counters (id int); CREATE TABLE public.symbols (id int);"
            " INSERT INTO public.users (username) VALUES ('alice'), ('Bob')"
        )
        run(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")


def leave_session_state(url: str) -> None:
    """Change settings and create temporary tables in every session of the pooler, as another client would."""
    with ExitStack() as stack:
        clients = []
        for _ in range(SESSIONS_OF_POOLER):
            client = psycopg2.connect(url.partition("?")[0], options="")
            stack.callback(client.close)
            cursor = client.cursor()
            cursor.execute("SELECT pg_backend_pid()")
            clients.append((client, cursor))
        assert len({cursor.fetchall()[0] for _, cursor in clients}) == SESSIONS_OF_POOLER
        for client, cursor in clients:
            cursor.execute(SETTINGS_LEFT_BEHIND)
            client.commit()
            with contextlib.suppress(psycopg2.errors.DuplicateTable, psycopg2.errors.InsufficientPrivilege):
                cursor.execute(TABLES_LEFT_BEHIND)
            client.commit()


@pytest.fixture(scope="session")
def plain_results(postgres_server: PostgresServer, server_directory: Callable[[], Path]) -> dict[str, Any]:
    """Return the results of `play` on PostgreSQL 18 with default settings and without a pooler."""
    with (
        created_target(postgres_server, server_directory(), Variant()) as target,
        open_service(target.settings) as service,
    ):
        return play(service)


@pytest.fixture(scope="module", params=list(VARIANTS.values()), ids=list(VARIANTS))
def variant(request: pytest.FixtureRequest) -> Variant:
    """Return a variant of server; a test runs with each of `VARIANTS`."""
    kind: Variant = request.param
    return kind


@pytest.fixture(scope="module")
def target(
    request: pytest.FixtureRequest,
    variant: Variant,
    postgres_server: PostgresServer,
    server_directory: Callable[[], Path],
) -> Iterator[Target]:
    """Yield a database that the tests of a module share; they must not change it."""
    server = request.getfixturevalue("debian_server") if variant.is_debian else postgres_server
    with created_target(server, server_directory(), variant) as target:
        yield target


@pytest.fixture
def fresh_target(make_target: Callable[[Variant], Target], variant: Variant) -> Target:
    """Return a database that only this test uses."""
    return make_target(variant)


@pytest.fixture
def service(target: Target) -> Iterator[EnhancedDatabaseService]:
    """Yield a service on the shared database, without a cache, so that every read runs a query."""
    with open_service(target.settings) as service:
        yield service
