"""Tests of the settings and hosts of each kind of connection: pool, transaction, health check, migration."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.database import connector as connectors
from core.database.bounded_connection import BoundedConnector
from core.database.connector import Connector
from core.errors import DatabaseUnavailable, MigrationFailed
from core.migration import Migrator
from core.stack.ports import find_free_port
from core.testing import PostgresServer
from tests.conftest import Execute, administered

SHOW = """SELECT current_setting('TimeZone'), split_part(current_setting('DateStyle'), ',', 1),
    current_setting('IntervalStyle'), current_setting('transaction_isolation'),
    current_setting('lock_timeout'),
    current_setting('client_encoding'), current_setting('jit'), current_setting('search_path'), now()"""
PINNED = ("UTC", "ISO", "postgres", "read committed", "0", "UTF8", "off", "public, pg_temp")
DEFAULTS = {
    "timezone": "'America/St_Johns'",
    "datestyle": "'German'",
    "intervalstyle": "'iso_8601'",
    "default_transaction_isolation": "'serializable'",
    "default_transaction_deferrable": "on",
    "standard_conforming_strings": "off",
    "lock_timeout": "'1ms'",
    "row_security": "off",
    "jit": "on",
    "search_path": "public, pg_catalog",
}
ENVIRONMENT = {
    "PGTZ": "Asia/Tokyo",
    "PGDATESTYLE": "German",
    "PGCLIENTENCODING": "LATIN1",
    "PGOPTIONS": "-c timezone=CET -c default_transaction_isolation=serializable -c search_path=pg_catalog",
    "PGAPPNAME": "somebody else",
    "PGCONNECT_TIMEOUT": "1",
}


@contextlib.contextmanager
def run_on_pool(settings: Settings) -> Iterator[Callable[[str], Any]]:
    """Yield a function that runs a statement on a pooled connection outside a transaction."""
    with open_service(settings) as service, service._database.session("probe") as database:
        yield lambda statement: database.execute_sql(statement).fetchone()


@contextlib.contextmanager
def run_in_transaction(settings: Settings) -> Iterator[Callable[[str], Any]]:
    """Yield a function that runs a statement in a transaction on a pooled connection."""
    with open_service(settings) as service, service._database.transaction_of("probe") as database:
        yield lambda statement: database.execute_sql(statement).fetchone()


@contextlib.contextmanager
def run_on_bounded_connection(settings: Settings) -> Iterator[Callable[[str], Any]]:
    """Yield a function that runs a statement on a connection as health checks and collectors use it."""
    with contextlib.closing(BoundedConnector(settings, "probe", limit_seconds=5).open()) as connection:
        yield lambda statement: connection.execute_sql(statement).fetchone()


@contextlib.contextmanager
def run_on_migrator(settings: Settings) -> Iterator[Callable[[str], Any]]:
    """Yield a function that runs a statement on a connection as migrations use it."""
    with Migrator(settings)._connected() as database, database.atomic():
        changed = database.execute_sql("SELECT set_config('lock_timeout', '0', true)").fetchone()
        assert changed == ("0",)
        yield lambda statement: database.execute_sql(statement).fetchone()


CONNECTIONS = {
    "pool": run_on_pool,
    "transaction": run_in_transaction,
    "bounded": run_on_bounded_connection,
    "migrator": run_on_migrator,
}


@pytest.fixture
def odd_defaults(postgres_server: PostgresServer, settings: Settings) -> Settings:
    """Return settings of a database whose default settings would change results of statements."""
    name = settings.database_url.get_secret_value().rsplit("/", 1)[1]
    with administered(postgres_server) as execute:
        for setting, value in DEFAULTS.items():
            execute(f"ALTER DATABASE {name} SET {setting} = {value}")
    return settings.model_copy(update={"enable_redis_cache": False})


@pytest.mark.parametrize("sends_options", [True, False], ids=["direct", "pooled"])
@pytest.mark.parametrize("connect", CONNECTIONS.values(), ids=CONNECTIONS.keys())
def test_session_settings_do_not_depend_on_database_or_environment(
    odd_defaults: Settings, monkeypatch: pytest.MonkeyPatch, connect: Any, *, sends_options: bool
) -> None:
    """Each connection has the same time zone, date style, isolation, encoding and schema.

    Defaults of the database and variables such as PGTZ have no effect, also if a pooler drops the start-up
    options.
    """
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    build = Connector.__init__

    def without_options(connector: Connector, *arguments: Any, **options: Any) -> None:
        build(connector, *arguments, **options)
        connector._sends_options = sends_options

    monkeypatch.setattr(Connector, "__init__", without_options)
    with connect(odd_defaults) as run:
        *settings, now = run(SHOW)
        name = run("SELECT current_setting('application_name')")[0]
    assert tuple(settings) == PINNED
    assert now.utcoffset() == datetime.now(UTC).utcoffset()
    assert name != "somebody else"


@pytest.mark.parametrize("sends_options", [True, False], ids=["direct", "pooled"])
def test_texts_are_quoted_for_the_settings_of_the_session(
    odd_defaults: Settings, *, sends_options: bool
) -> None:
    """Text parameters arrive unchanged in a database whose default has `standard_conforming_strings` off."""
    texts = ["\\", "\\'", "'; --", "\\\\'", "%s", "E'\\n'"]
    with open_service(odd_defaults) as service:
        service._database._connector._sends_options = sends_options
        for unit in (service._database.session, service._database.transaction_of):
            with unit("quote") as database:
                for text in texts:
                    assert database.execute_sql("SELECT %s::text", (text,)).fetchone() == (text,)


def test_a_shared_session_keeps_no_settings(odd_defaults: Settings) -> None:
    """If a pooler drops the start-up options, each statement is sent with settings that apply to it alone."""
    connector = Connector(odd_defaults, "probe")
    connector._sends_options = False
    with contextlib.closing(connector.open()) as raw, raw.cursor() as cursor:
        assert not raw.keeps_session
        before = SHOW.replace(", now()", "")
        cursor.execute(before)
        defaults = cursor.fetchone()
        cursor.execute(raw.unit_prefix + before)
        assert cursor.fetchone() == PINNED
        cursor.execute(before)
        assert cursor.fetchone() == defaults
        assert defaults is not None
        assert defaults[0] == "America/St_Johns"


def test_a_session_without_our_options_counts_as_shared(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session with equal settings that this stack did not send may be shared, and counts as shared."""
    monkeypatch.setattr(
        Connector,
        "_build_parameters",
        lambda *_: {"options": "-c timezone=UTC -c statement_timeout=30s"},
    )
    with contextlib.closing(Connector(settings, "probe").open()) as raw:
        assert not raw.keeps_session


def test_a_statement_without_a_pooler_has_no_prefix(settings: Settings, execute: Execute) -> None:
    """On a direct connection a statement is sent without a prefix of settings."""
    with open_service(settings) as service:
        sent: list[str] = []
        service._database.query_hooks.append(lambda event: sent.append(event.sql))
        with service._database.session("probe") as database:
            database.execute_sql("SELECT 1")
        assert sent == ["SELECT 1 /* op=probe */"]


def test_an_old_server_is_refused_in_one_line(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The migrator, the pool and the health check refuse a too old PostgreSQL; the error is one line."""
    monkeypatch.setattr(connectors, "MIN_SERVER_VERSION", 990_000)
    with open_service(settings.model_copy(update={"enable_redis_cache": False})) as service:
        for call in (Migrator(settings).up, lambda: service.search_users("a")):
            with pytest.raises(
                DatabaseUnavailable, match=r"PostgreSQL 1\d\.\d+ is too old; 99 or newer"
            ) as error:
                call()
            assert "\n" not in str(error.value)
        assert service.health().database == "unhealthy"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_is_not_utf8_is_refused(
    postgres_server: PostgresServer, settings: Settings, encoding: str
) -> None:
    """The migrator refuses a database with another encoding than UTF8, in one line, and creates no table."""
    name = f"encoding_{encoding.lower()}"
    with administered(postgres_server) as execute:
        execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
        )
        try:
            url = SecretStr(postgres_server.url(name))
            migrator = Migrator(settings.model_copy(update={"database_url": url}))
            with pytest.raises(
                MigrationFailed, match=f"has the encoding {encoding}.*ENCODING 'UTF8'"
            ) as error:
                migrator.up()
            assert "\n" not in str(error.value)
            assert all(row.applied_at is None for row in migrator.status())
        finally:
            execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_pgclientencoding_is_ignored(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greek, Japanese and emoji texts are stored unchanged although PGCLIENTENCODING is LATIN1."""
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with open_service(settings) as service:
        user = service.create_user(username="ΣΊΣΥΦΟΣ", name="名前 🎲")
        assert service.get_user_by_username("ΣΊΣΥΦΟΣ") == user


def test_a_read_only_database_is_not_migrated(
    postgres_server: PostgresServer, empty_database_url: str
) -> None:
    """If `default_transaction_read_only` is on, the migrator raises an error that names this setting."""
    name = empty_database_url.rsplit("/", 1)[1]
    with administered(postgres_server) as execute:
        execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(MigrationFailed, match="default_transaction_read_only is on"):
        Migrator(Settings(database_url=SecretStr(empty_database_url))).up()


def test_a_connection_whose_probe_fails_is_closed(
    service: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the first query on a new connection fails, the connection is closed and leaves the pool."""
    opened: list[Any] = []

    def fail(_: Connector, raw: Any, __: Any) -> None:
        opened.append(raw)
        raise psycopg2.OperationalError("interrupted")

    monkeypatch.setattr(Connector, "probe_session", fail)
    with pytest.raises(DatabaseUnavailable, match="interrupted"):
        service.count_active_players(datetime(2026, 1, 1, tzinfo=UTC))
    assert [raw.closed for raw in opened] == [1]
    assert service.pool_stats().pool_size == 0


def build_multi_host_urls(url: str, server: PostgresServer) -> dict[str, str]:
    """Return URLs in each notation of two hosts, of which only the last one answers."""
    nobody, here = find_free_port(), f"127.0.0.1:{server.port}"
    login, _, database = url.partition(f"@{here}")
    return {
        "in the host part": f"{login}@127.0.0.1:{nobody},{here}{database}?target_session_attrs=read-write",
        "as parameters": (
            f"{login}@{database}?host=127.0.0.1,localhost&port={nobody},{server.port}"
            "&target_session_attrs=primary"
        ),
        "a name without an address": f"{login}@nowhere.invalid:{server.port},{here}{database}",
        "one port for all": f"{login}@{database}?host=nowhere.invalid,127.0.0.1&port={server.port}",
    }


def test_several_hosts_are_tried_in_turn(
    settings: Settings, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool, the migrator and the health check connect to the host that answers."""
    for url in build_multi_host_urls(settings.database_url.get_secret_value(), postgres_server).values():
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.setenv("ENABLE_REDIS_CACHE", "false")
        loaded = Settings.load()
        assert all(row.applied_at for row in Migrator(loaded).status())
        with open_service(loaded) as service:
            assert service.search_users("a") == ()
            assert service.health().status == "healthy"


def test_a_read_only_host_is_refused_with_both_causes(
    settings: Settings, postgres_server: PostgresServer
) -> None:
    """With target_session_attrs=read-write a read-only host is refused.

    The error names both possible causes: a standby, or `default_transaction_read_only`.
    """
    url = settings.database_url.get_secret_value()
    with administered(postgres_server) as execute:
        execute(f"ALTER DATABASE {url.rsplit('/', 1)[1]} SET default_transaction_read_only = on")
    own = settings.model_copy(
        update={
            "database_url": SecretStr(f"{url}?target_session_attrs=read-write"),
            "enable_redis_cache": False,
        }
    )
    with open_service(own) as service:
        with pytest.raises(
            DatabaseUnavailable, match=r"session is read-only.*standby.*or default_transaction"
        ):
            service.search_users("a")
        health = service.health()
    assert (health.database, health.database_reason) == ("unhealthy", "session is read-only")


def test_pgport_is_used_by_every_connection(
    settings: Settings, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL without a port uses PGPORT, in the pool and in the health check."""
    monkeypatch.setenv("PGPORT", str(postgres_server.port))
    url = settings.database_url.get_secret_value().replace(f":{postgres_server.port}/", "/")
    own = settings.model_copy(update={"database_url": SecretStr(url), "enable_redis_cache": False})
    with open_service(own) as service:
        assert service.search_users("a") == ()
        assert service.health().status == "healthy"


def test_pghostaddr_is_ignored(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """PGHOSTADDR is ignored, because the URL names the host."""
    with monkeypatch.context() as environment:
        environment.setenv("PGHOSTADDR", "127.0.0.254")
        with open_service(settings.model_copy(update={"enable_redis_cache": False})) as service:
            assert service.search_users("a") == ()
            assert service.health().status == "healthy"
        assert all(row.applied_at for row in Migrator(settings).status())
