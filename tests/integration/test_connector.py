"""What every connection has, whatever the server, the role, the URL and the environment say."""

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
def by_pool(settings: Settings) -> Iterator[Callable[[str], Any]]:
    """Ask on a connection of the pool, outside of a transaction."""
    with open_service(settings) as service, service._database.session("probe") as database:
        yield lambda statement: database.execute_sql(statement).fetchone()


@contextlib.contextmanager
def by_transaction(settings: Settings) -> Iterator[Callable[[str], Any]]:
    """Ask on a connection of the pool, in a transaction."""
    with open_service(settings) as service, service._database.transaction_of("probe") as database:
        yield lambda statement: database.execute_sql(statement).fetchone()


@contextlib.contextmanager
def by_bounded(settings: Settings) -> Iterator[Callable[[str], Any]]:
    """Ask as health checks and collectors do."""
    with contextlib.closing(BoundedConnector(settings, "probe", limit_seconds=5).open()) as connection:
        yield lambda statement: connection.execute_sql(statement).fetchone()


@contextlib.contextmanager
def by_migrator(settings: Settings) -> Iterator[Callable[[str], Any]]:
    """Ask as migrations do."""
    with Migrator(settings)._connected() as database, database.atomic():
        changed = database.execute_sql("SELECT set_config('lock_timeout', '0', true)").fetchone()
        assert changed == ("0",)
        yield lambda statement: database.execute_sql(statement).fetchone()


ASKING = {"pool": by_pool, "transaction": by_transaction, "bounded": by_bounded, "migrator": by_migrator}


@pytest.fixture
def odd_defaults(postgres_server: PostgresServer, settings: Settings) -> Settings:
    """A database whose defaults would change answers."""
    name = settings.database_url.get_secret_value().rsplit("/", 1)[1]
    with administered(postgres_server) as execute:
        for setting, value in DEFAULTS.items():
            execute(f"ALTER DATABASE {name} SET {setting} = {value}")
    return settings.model_copy(update={"enable_redis_cache": False})


@pytest.mark.parametrize("sends_options", [True, False], ids=["direct", "pooled"])
@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING.keys())
def test_settings_do_not_depend_on_server_role_or_environment(
    odd_defaults: Settings, monkeypatch: pytest.MonkeyPatch, ask: Any, *, sends_options: bool
) -> None:
    """Zone, style, isolation, encoding and schema are the same on each kind of connection."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    build = Connector.__init__

    def without_options(connector: Connector, *arguments: Any, **options: Any) -> None:
        build(connector, *arguments, **options)
        connector._sends_options = sends_options

    monkeypatch.setattr(Connector, "__init__", without_options)
    with ask(odd_defaults) as run:
        *settings, now = run(SHOW)
        name = run("SELECT current_setting('application_name')")[0]
    assert tuple(settings) == PINNED
    assert now.utcoffset() == datetime.now(UTC).utcoffset()
    assert name != "somebody else"


@pytest.mark.parametrize("sends_options", [True, False], ids=["direct", "pooled"])
def test_texts_are_quoted_as_the_session_reads_them(odd_defaults: Settings, *, sends_options: bool) -> None:
    """This includes sessions in which backslashes escape, in every statement of a transaction."""
    texts = ["\\", "\\'", "'; --", "\\\\'", "%s", "E'\\n'"]
    with open_service(odd_defaults) as service:
        service._database._connector._sends_options = sends_options
        for unit in (service._database.session, service._database.transaction_of):
            with unit("quote") as database:
                for text in texts:
                    assert database.execute_sql("SELECT %s::text", (text,)).fetchone() == (text,)


def test_nothing_stays_behind_in_a_session_that_is_shared(odd_defaults: Settings) -> None:
    """Without start-up options, the settings of a statement end with it."""
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


def test_another_clients_settings_are_not_taken_for_ours(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session with equal values but without our options may be shared, and counts as shared."""
    monkeypatch.setattr(
        Connector,
        "_build_parameters",
        lambda *_: {"options": "-c timezone=UTC -c statement_timeout=30s"},
    )
    with contextlib.closing(Connector(settings, "probe").open()) as raw:
        assert not raw.keeps_session


def test_a_new_connection_costs_one_question(settings: Settings, execute: Execute) -> None:
    """Statements on a server without a pooler have no prefix."""
    with open_service(settings) as service:
        asked: list[str] = []
        service._database.query_hooks.append(lambda event: asked.append(event.sql))
        with service._database.session("probe") as database:
            database.execute_sql("SELECT 1")
        assert asked == ["SELECT 1 /* op=probe */"]


def test_an_old_server_is_refused_in_one_line(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrate, the pool and the health check refuse it."""
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
    """The error is one line with the remedy, and no table is created."""
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


def test_letters_of_every_alphabet_pass_a_latin_environment(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PGCLIENTENCODING is ignored."""
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with open_service(settings) as service:
        user = service.create_user(username="ΣΊΣΥΦΟΣ", name="名前 🎲")
        assert service.get_user_by_username("ΣΊΣΥΦΟΣ") == user


def test_a_standby_or_a_read_only_database_is_not_migrated(
    postgres_server: PostgresServer, empty_database_url: str
) -> None:
    """The error names the cause of the read-only mode."""
    name = empty_database_url.rsplit("/", 1)[1]
    with administered(postgres_server) as execute:
        execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(MigrationFailed, match="default_transaction_read_only is on"):
        Migrator(Settings(database_url=SecretStr(empty_database_url))).up()


def test_a_connection_that_cannot_be_introduced_is_closed(
    service: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing probe leaves no session on the server, and the pool has its slot again."""
    opened: list[Any] = []

    def fail(_: Connector, raw: Any, __: Any) -> None:
        opened.append(raw)
        raise psycopg2.OperationalError("interrupted")

    monkeypatch.setattr(Connector, "probe_session", fail)
    with pytest.raises(DatabaseUnavailable, match="interrupted"):
        service.count_active_players(datetime(2026, 1, 1, tzinfo=UTC))
    assert [raw.closed for raw in opened] == [1]
    assert service.pool_stats().pool_size == 0


def several_hosts(url: str, server: PostgresServer) -> dict[str, str]:
    """Return URLs in which a host that does not answer comes before the server, in every spelling."""
    nobody, here = find_free_port(), f"127.0.0.1:{server.port}"
    login, _, database = url.partition(f"@{here}")
    return {
        "in the place of one": f"{login}@127.0.0.1:{nobody},{here}{database}?target_session_attrs=read-write",
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
    """The pool, migrate, the health check and so the exporter do this."""
    for url in several_hosts(settings.database_url.get_secret_value(), postgres_server).values():
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.setenv("ENABLE_REDIS_CACHE", "false")
        loaded = Settings.load()
        assert all(row.applied_at for row in Migrator(loaded).status())
        with open_service(loaded) as service:
            assert service.search_users("a") == ()
            assert service.health().status == "healthy"


def test_a_host_that_accepts_no_writes_is_named_with_both_causes(
    settings: Settings, postgres_server: PostgresServer
) -> None:
    """With target_session_attrs=read-write nothing is left to connect to."""
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


def test_a_port_of_the_environment_is_that_of_every_connection(
    settings: Settings, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL without a port uses PGPORT, in the health check as in the pool."""
    monkeypatch.setenv("PGPORT", str(postgres_server.port))
    url = settings.database_url.get_secret_value().replace(f":{postgres_server.port}/", "/")
    own = settings.model_copy(update={"database_url": SecretStr(url), "enable_redis_cache": False})
    with open_service(own) as service:
        assert service.search_users("a") == ()
        assert service.health().status == "healthy"


def test_an_address_of_the_environment_does_not_replace_the_host(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PGHOSTADDR is ignored, because the URL names the host."""
    with monkeypatch.context() as environment:
        environment.setenv("PGHOSTADDR", "127.0.0.254")
        with open_service(settings.model_copy(update={"enable_redis_cache": False})) as service:
            assert service.search_users("a") == ()
            assert service.health().status == "healthy"
        assert all(row.applied_at for row in Migrator(settings).status())
