"""Set-up of the database roles: administrators, schemas, databases, passwords and a connection pooler."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import psycopg2
import pytest
from click.testing import CliRunner
from psycopg2.extras import PhysicalReplicationConnection
from pydantic import SecretStr

from core import Settings, open_service
from core.cli import main
from core.database.privileges import hand_over
from core.database.roles import APP, LOGINS, MONITOR, OWNER, REPLICATION, create_roles, open_administrator
from core.errors import ConnectFailed, DatabaseError
from core.migration import Migrator
from core.testing import FAST, PostgresServer, run_postgres
from exporter.collectors.postgres import open_postgres_runner
from tests.conftest import administered, connected
from tests.matrix.servers import run_debian_postgres, run_pgbouncer
from tests.patience import stretch
from tests.roles import PASSWORDS, cursor_as, give_to_roles, settings_as, url_as

SERVERS = ("PostgreSQL 18", "Debian's")
ADMIN = "administrator"
NEW_PASSWORDS = {name: f"another-{uuid4().hex}" for name in LOGINS}
GRANT_WITH_ADMIN_OPTION = f"GRANT pg_monitor TO {ADMIN} WITH ADMIN OPTION"


class LoggedServer(NamedTuple):
    """A server without the stack's roles, and the path of its log."""

    postgres: PostgresServer
    log: Path

    @property
    def has_admin_options(self) -> bool:
        """Return whether a role with CREATEROLE needs ADMIN OPTION to change roles that others created."""
        with connected(self.postgres.url()) as execute:
            [(version,)] = execute("SELECT current_setting('server_version_num')::int")
        return bool(version >= 160_000)


@pytest.fixture(scope="module", params=SERVERS)
def logged_server(
    request: pytest.FixtureRequest, server_directory: Callable[[], Path]
) -> Iterator[LoggedServer]:
    """Yield a server that logs every statement; no other test uses it, because roles belong to a server."""
    directory = server_directory()
    run = run_debian_postgres(directory)
    if request.param == SERVERS[0]:
        run = run_postgres(directory, options=FAST)
    with run as server:
        with administered(server) as execute:
            execute("ALTER SYSTEM SET log_statement = 'all'")
            execute("SELECT pg_reload_conf()")
        yield LoggedServer(server, directory / "postgres.log")


@pytest.fixture
def clean_server(logged_server: LoggedServer) -> Iterator[LoggedServer]:
    """Yield the server without the stack's roles; afterwards drop the databases and roles of the test."""
    yield logged_server
    with administered(logged_server.postgres) as execute, connected(logged_server.postgres.url()) as select:
        for (name,) in select("SELECT datname FROM pg_database WHERE datname ~ '^roles_'"):
            execute(f"DROP DATABASE {name} WITH (FORCE)")
        for (name,) in select(f"SELECT rolname FROM pg_roles WHERE rolname ~ '^(echo_markets_|{ADMIN})'"):
            execute(f"DROP OWNED BY {name} CASCADE")
            execute(f"DROP ROLE {name}")


def make_database(clean_server: LoggedServer, *, owner: str = "postgres", schema: str = "public") -> str:
    """Create a database and return its URL, which has `schema` first on the search path."""
    name = f"roles_{uuid4().hex[:12]}"
    with administered(clean_server.postgres) as execute:
        execute(f"CREATE DATABASE {name} OWNER {owner}")
    url = clean_server.postgres.url(name)
    if schema == "public":
        return url
    with connected(url) as execute:
        execute(f"CREATE SCHEMA {schema} AUTHORIZATION {owner}")
    return f"{url}?options=-csearch_path%3D{schema}"


@pytest.fixture
def admin(clean_server: LoggedServer) -> str:
    """Return the name of a new role that creates roles and databases and is no superuser."""
    with administered(clean_server.postgres) as execute:
        execute(f"CREATE ROLE {ADMIN} LOGIN CREATEROLE CREATEDB PASSWORD '{ADMIN}'")
        execute(GRANT_WITH_ADMIN_OPTION)
    return ADMIN


def as_admin(url: str, name: str = ADMIN) -> str:
    """Return the URL for an administrator whose password equals the name."""
    return url_as(f"{name}:{name}", url)


def set_up(url: str, passwords: dict[str, str] = PASSWORDS) -> list[str]:
    """Create the roles and hand over the database, as `echo-markets roles` does."""
    with open_administrator(url) as connection:
        created = create_roles(connection, passwords)
        hand_over(connection)
    return created


def can_sign_in(role: str, url: str, password: str) -> bool:
    """Return whether a role can connect with a password."""
    try:
        psycopg2.connect(url_as(role, url), password=password).close()
    except psycopg2.OperationalError as error:
        if "password authentication failed" not in str(error):
            raise
        return False
    return True


def assert_works(url: str) -> None:
    """Migrate as the owner; write, read and maintain as the application."""
    settings = settings_as(APP, url, enable_redis_cache=False)
    Migrator(settings).up()
    with open_service(settings) as service, service.acting_as("operator"):
        alice = service.create_user(username="alice")
        service.update_leaderboard_entry(alice.id, "score", Decimal(1))
        assert service.seal_audit_log().events > 0
        assert service.get_user_rank(alice.id, "score").rank == 1
        service.maintain_audit_log(months_ahead=3)
        service.delete_user(alice.id)


# -- an administrator who is no superuser --------------------------------------------------------


@pytest.mark.parametrize(("schema", "inherit"), [("public", "INHERIT"), ("echo", "NOINHERIT")])
def test_an_administrator_need_not_be_superuser(
    clean_server: LoggedServer, admin: str, schema: str, inherit: str
) -> None:
    """A role with CREATEROLE creates the roles and changes passwords, but does not get the owner's rights."""
    with administered(clean_server.postgres) as execute:
        execute(f"ALTER ROLE {admin} {inherit}")
    url = make_database(clean_server, owner=admin, schema=schema)
    assert set(set_up(as_admin(url))) >= set(LOGINS)
    assert_works(url)
    with administered(clean_server.postgres) as execute:
        # an administrator needs no permission to grant pg_monitor if it is granted already
        execute(f"REVOKE ADMIN OPTION FOR pg_monitor FROM {admin} CASCADE")
        execute(f"GRANT pg_monitor TO {MONITOR}")
    assert set_up(as_admin(url), NEW_PASSWORDS) == []
    for name in LOGINS:
        assert can_sign_in(name, url, NEW_PASSWORDS[name])
        assert not can_sign_in(name, url, PASSWORDS[name])
    with connected(url) as execute:
        assert execute("SELECT pg_has_role(%s, %s, 'USAGE')", (admin, OWNER)) == [(False,)]


def test_an_existing_database_is_handed_over(clean_server: LoggedServer, admin: str) -> None:
    """Tables that the administrator has created get the owner role as owner and keep their rows."""
    url = make_database(clean_server, owner=admin)
    Migrator(Settings(database_url=SecretStr(as_admin(url)))).up()
    with connected(as_admin(url)) as execute:
        execute("INSERT INTO market_events (type, title) VALUES ('NEWS', 'before the roles')")
    set_up(as_admin(url))
    assert_works(url)
    with connected(url) as execute:
        assert execute("SELECT count(*) FROM market_events WHERE title = 'before the roles'") == [(1,)]


def test_a_missing_permission_is_named(clean_server: LoggedServer, admin: str) -> None:
    """The error has the server's message and names the attribute or ADMIN option that is missing."""
    url = make_database(clean_server, owner=admin)
    with administered(clean_server.postgres) as execute:
        execute(f"ALTER ROLE {admin} NOCREATEDB")
        with pytest.raises(DatabaseError, match=r"permission denied to change owner of database.*CREATEDB"):
            set_up(as_admin(url))
        execute(f"ALTER ROLE {admin} CREATEDB NOCREATEROLE")
        with pytest.raises(DatabaseError, match=r"permission denied.*CREATEROLE"):
            set_up(as_admin(url))
        execute(f"ALTER ROLE {admin} CREATEROLE")
        set_up(as_admin(url))
        second = f"{ADMIN}_2"
        execute(f"CREATE ROLE {second} LOGIN CREATEROLE CREATEDB PASSWORD '{second}'")
        execute(GRANT_WITH_ADMIN_OPTION.replace(admin, second))
        other = as_admin(make_database(clean_server, owner=second), second)
        if clean_server.has_admin_options:
            with pytest.raises(DatabaseError, match=f'ADMIN option on role "{OWNER}"'):
                set_up(other)
            for name in LOGINS:
                assert can_sign_in(name, url, PASSWORDS[name])
            execute(f"GRANT echo_markets_player, echo_markets_sealer, {', '.join(LOGINS)} TO {second}"
                    " WITH ADMIN OPTION")  # fmt: skip  # keeps the statement on two lines
        assert set_up(other) == []


# -- several databases and schemas ---------------------------------------------------------------


def test_two_databases_share_the_roles(clean_server: LoggedServer) -> None:
    """Databases with shared roles have separate rows; a table `users` in another schema is not changed."""
    first, second = make_database(clean_server), make_database(clean_server, schema="echo")
    with connected(second.partition("?")[0]) as execute:
        execute("CREATE TABLE users (id int); INSERT INTO users VALUES (1)")
    for url in (first, second):
        set_up(url)
        assert_works(url)
    with open_service(settings_as(APP, first, enable_redis_cache=False)) as service:
        service.create_user(username="bob")
    with open_service(settings_as(APP, second, enable_redis_cache=False)) as service:
        assert service.search_users("bob") == ()
    with connected(second) as execute:
        assert execute("SELECT tableowner FROM pg_tables WHERE tablename = 'users' ORDER BY schemaname") == [
            (OWNER,),
            ("postgres",),
        ]
    with cursor_as(APP, second) as cursor, pytest.raises(psycopg2.errors.InsufficientPrivilege):
        cursor.execute("SELECT * FROM public.users")


@pytest.mark.parametrize("logged_server", [SERVERS[0]], indirect=True)
def test_concurrent_set_ups_succeed(clean_server: LoggedServer) -> None:
    """Databases share roles but not locks: a set-up that collides with another one repeats its step."""
    urls = [make_database(clean_server) for _ in range(2)]
    barrier = threading.Barrier(len(urls))

    def set_up_five_times(url: str) -> None:
        barrier.wait(60)
        for _ in range(5):
            set_up(url)

    with ThreadPoolExecutor(len(urls)) as threads:
        list(threads.map(set_up_five_times, urls))
    for name in LOGINS:
        assert can_sign_in(name, urls[0], PASSWORDS[name])


# -- passwords -----------------------------------------------------------------------------------


def test_a_changed_password_is_read_from_its_file(
    clean_server: LoggedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a password change open connections continue; new ones read the new password from its file."""
    url = make_database(clean_server)
    give_to_roles(url)
    file = tmp_path / "app.password"
    file.write_text(PASSWORDS[APP], encoding="utf-8")
    file.chmod(0o600)
    monkeypatch.setenv("DATABASE_URL", url_as(APP, url))
    monkeypatch.setenv("DATABASE_PASSWORD_FILE", str(file))
    with open_service(Settings.load(enable_redis_cache=False, database_connection_limit=1)) as service:
        service.list_session_dates()
        set_up(url, NEW_PASSWORDS)
        service.list_session_dates()
        end_sessions(url)
        with pytest.raises(ConnectFailed, match="password authentication failed"):
            service.list_session_dates()
        file.write_text(NEW_PASSWORDS[APP], encoding="utf-8")
        service.list_session_dates()
        end_sessions(url)
        service.list_session_dates()


def end_sessions(url: str) -> None:
    """Terminate all connections of the application, as a restart of the server does."""
    with connected(url) as execute:
        execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = %s", (APP,))


@pytest.mark.parametrize("is_superuser", [True, False])
def test_no_password_is_in_the_log_or_the_statistics(
    clean_server: LoggedServer, admin: str, monkeypatch: pytest.MonkeyPatch, *, is_superuser: bool
) -> None:
    """No log, statistics or output has a password; a superuser's set-up does not log the verifiers either."""
    url = make_database(clean_server, owner=admin)
    with connected(url) as execute:
        has_statistics = bool(
            execute("SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements'")
        )
        if has_statistics:
            execute("CREATE EXTENSION pg_stat_statements")
    log_size = clean_server.log.stat().st_size
    passwords = {name: f"{name}-{uuid4().hex}" for name in LOGINS}
    monkeypatch.setenv("ADMIN_URL", url if is_superuser else as_admin(url))
    for name in LOGINS:
        monkeypatch.setenv(f"{name.removeprefix('echo_markets_').upper()}_PASSWORD", passwords[name])
    for _ in range(2):
        result = CliRunner().invoke(main, ["roles"])
        assert result.exit_code == 0, result.output
    assert all(can_sign_in(name, url, passwords[name]) for name in LOGINS)
    traces = clean_server.log.read_bytes()[log_size:].decode()
    assert "SELECT rolname FROM pg_roles" in traces or is_superuser
    if has_statistics:
        with connected(url) as execute:
            traces += "".join(query for (query,) in execute("SELECT query FROM pg_stat_statements"))
    traces += result.output
    assert [name for name in LOGINS if passwords[name] in traces] == []
    assert ("SCRAM-SHA-256" in traces) is not is_superuser


# -- a pooler ------------------------------------------------------------------------------------


@contextmanager
def run_pooler(clean_server: LoggedServer, directory: Path, url: str) -> Iterator[str]:
    """Yield the URL of a database behind PgBouncer in transaction mode, with two connections per role."""
    accounts = {"postgres": clean_server.postgres.password, **PASSWORDS}
    with run_pgbouncer(directory, clean_server.postgres, accounts, default_pool_size="2") as port:
        yield url.replace(f":{clean_server.postgres.port}/", f":{port}/")


@pytest.mark.parametrize("logged_server", [SERVERS[1]], indirect=True)
def test_everything_works_behind_a_transaction_pooler(
    clean_server: LoggedServer, server_directory: Callable[[], Path]
) -> None:
    """Set-up, migrations, the application, a player's view and the exporter work behind PgBouncer."""
    with run_pooler(clean_server, server_directory(), make_database(clean_server)) as url:
        set_up(url)
        assert_works(url)
        with open_service(settings_as(APP, url, enable_redis_cache=False)) as service:
            alice, bob = service.create_user(username="alice"), service.create_user(username="bob")
            service.as_user(alice.id).update_user_profile(name="Alice")
            assert service.as_user(bob.id).get_profile().name is None
            assert service.get_user_by_id(alice.id).name == "Alice"
        runner = open_postgres_runner(settings_as(MONITOR, url), (), find_roles=tuple)
        with closing(runner):
            runner.start()
            outcomes = runner.wait(time.monotonic() + stretch(20))
        assert [each.name for each in outcomes if not each.is_success] == []


def test_the_replication_role_needs_a_password(clean_server: LoggedServer) -> None:
    """The replication role is created only with a password; it may stream the log but not open a database."""
    url = make_database(clean_server, owner="postgres", schema="public")
    assert REPLICATION not in set_up(url)
    passwords = {**PASSWORDS, REPLICATION: "copy"}
    assert set_up(url, passwords) == [REPLICATION]
    assert set_up(url, {**passwords, REPLICATION: "another"}) == []
    login = url_as(f"{REPLICATION}:another", url)
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        psycopg2.connect(login)
    with closing(psycopg2.connect(login, connection_factory=PhysicalReplicationConnection)) as connection:
        cursor = connection.cursor()
        cursor.execute("IDENTIFY_SYSTEM")
        assert cursor.fetchone() is not None
