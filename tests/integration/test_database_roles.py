"""Tests of the privileges of the database roles, on real servers with a session of each role."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import psycopg2
import pytest
from msgspec.structs import replace
from psycopg2 import errors
from pydantic import SecretStr

from core import Settings, open_service
from core.database.privileges import FUNCTIONS, TABLES
from core.database.roles import (
    APP,
    LOGINS,
    MONITOR,
    OWNER,
    PLAYER,
    ROLES,
    SEALER,
)
from core.errors import ConstraintViolated, MigrationFailed
from core.migration import Migrator
from core.records import Position
from core.selftest import run_self_test
from core.service.writes import new_id
from core.testing import ValkeyServer
from tests.conftest import connected
from tests.roles import cursor_as, settings_as, url_as

# Statements that no role may run. Each statement would succeed with the privilege it needs.
REFUSED_TO_ALL = (
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY users (username) FROM PROGRAM 'true'",
    "COPY (SELECT 1) TO '/tmp/echo-markets-roles'",
    "COPY users (username) FROM '/etc/passwd'",
    "SELECT rolpassword FROM pg_authid",
    "SELECT passwd FROM pg_shadow",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT pg_ls_dir('.')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT * FROM elsewhere.secrets",
    "CREATE ROLE mighty",
    f"ALTER ROLE {APP} SUPERUSER",
    f"GRANT {OWNER} TO {MONITOR}",
    "ALTER SYSTEM SET log_statement = 'none'",
    "CREATE DATABASE another",
    "SET session_replication_role = replica",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "CREATE FUNCTION c() RETURNS int LANGUAGE internal AS 'pg_backend_pid'",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
    "SELECT set_config('log_statement', 'none', false)",
)
# Statements that only the owner may run.
REFUSED_TO_OTHERS = (
    "CREATE TABLE anything (id int)",
    "CREATE TABLE public.anything (id int)",
    "CREATE SCHEMA anything",
    "CREATE FUNCTION anything() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE VIEW anything AS SELECT 1",
    "CREATE TYPE anything AS ENUM ('a')",
    "CREATE SEQUENCE anything",
    "ALTER TABLE users ADD COLUMN anything int",
    "ALTER TABLE users DISABLE TRIGGER ALL",
    "ALTER TABLE users OWNER TO CURRENT_USER",
    "CREATE INDEX anything ON users (name)",
    "DROP TABLE market_events",
    "TRUNCATE market_events",
    "DROP FUNCTION users_search",
    "ALTER FUNCTION users_search RESET ALL",
    "CREATE TRIGGER anything AFTER INSERT ON users EXECUTE FUNCTION leaderboard_count()",
    "COMMENT ON TABLE users IS 'mine'",
    "UPDATE schema_migration SET name = name",
    "DELETE FROM schema_migration",
    "DROP SCHEMA public CASCADE",
)


class RolledBack(Exception):
    """Ends a transaction without a commit."""


@pytest.fixture(scope="module", autouse=True)
def _another_schema(roles_url: str) -> None:
    with connected(roles_url) as execute:
        execute("CREATE SCHEMA elsewhere")
        execute("CREATE TABLE elsewhere.secrets (id int)")
        execute("INSERT INTO elsewhere.secrets VALUES (1)")


@pytest.mark.parametrize("role", LOGINS)
@pytest.mark.parametrize("statement", REFUSED_TO_ALL)
def test_no_role_has_server_privileges(roles_url: str, role: str, statement: str) -> None:
    """No role may use programs, files, passwords, other roles, other schemas or server settings."""
    with cursor_as(role, roles_url) as cursor, pytest.raises(errors.InsufficientPrivilege):
        cursor.execute(statement)


@pytest.mark.parametrize("role", [APP, PLAYER, MONITOR])
@pytest.mark.parametrize("statement", REFUSED_TO_OTHERS)
def test_only_the_owner_changes_the_schema(roles_url: str, role: str, statement: str) -> None:
    """The application, player and monitor roles cannot create, alter, drop or truncate anything."""
    login = APP if role == PLAYER else role
    with cursor_as(login, roles_url) as cursor:
        if role == PLAYER:
            cursor.execute(f"SET ROLE {PLAYER}")
        with pytest.raises(errors.InsufficientPrivilege):
            cursor.execute(statement)


@pytest.mark.parametrize("role", LOGINS)
def test_a_role_can_switch_only_to_its_own_roles(roles_url: str, role: str) -> None:
    """The application can switch to the player and the owner to the sealer; no other switch is allowed."""
    allowed = {APP: {PLAYER}, OWNER: {SEALER}, MONITOR: set()}[role] | {role}
    with cursor_as(role, roles_url) as cursor:
        for other in ROLES:
            cursor.execute("RESET ROLE")
            if other in allowed:
                cursor.execute(f"SET ROLE {other}")
            else:
                with pytest.raises(errors.InsufficientPrivilege):
                    cursor.execute(f"SET ROLE {other}")


@pytest.mark.parametrize("role", [PLAYER, SEALER])
def test_player_and_sealer_cannot_log_in(roles_url: str, role: str) -> None:
    """The player and sealer roles have no login; other roles switch to them with SET ROLE."""
    with pytest.raises(psycopg2.OperationalError, match=r"password|not permitted"):
        psycopg2.connect(url_as(role, roles_url), password="any")


def test_the_application_does_not_inherit_from_the_player(roles_url: str) -> None:
    """The application has the player's privileges only after SET ROLE."""
    with connected(roles_url) as execute, cursor_as(APP, roles_url) as cursor:
        execute(f"GRANT USAGE ON SCHEMA elsewhere TO {APP}")
        execute(f"GRANT SELECT ON elsewhere.secrets TO {PLAYER}")
        execute(f"GRANT USAGE ON SCHEMA elsewhere TO {PLAYER}")
        try:
            with pytest.raises(errors.InsufficientPrivilege):
                cursor.execute("SELECT FROM elsewhere.secrets")
            cursor.execute(f"SET ROLE {PLAYER}; SELECT FROM elsewhere.secrets")
        finally:
            execute(f"REVOKE ALL ON SCHEMA elsewhere FROM {APP}, {PLAYER}")
            execute(f"REVOKE ALL ON elsewhere.secrets FROM {PLAYER}")


def test_public_has_no_privileges(roles_url: str) -> None:
    """A role without grants cannot connect and has no privilege on the database or the schema."""
    name = f"stranger_{uuid4().hex[:8]}"
    with connected(roles_url) as execute:
        execute(f"CREATE ROLE {name} LOGIN PASSWORD 'stranger'")
        try:
            with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
                psycopg2.connect(url_as(name, roles_url), password="stranger")
            for privilege in ("CONNECT", "TEMPORARY", "CREATE"):
                found = execute(
                    "SELECT has_database_privilege(%s, current_database(), %s)", (name, privilege)
                )
                assert found == [(False,)], privilege
            for privilege in ("USAGE", "CREATE"):
                assert execute("SELECT has_schema_privilege(%s, 'public', %s)", (name, privilege)) == [
                    (False,)
                ]
        finally:
            execute(f"DROP ROLE {name}")


def test_every_table_and_function_is_declared(roles_url: str) -> None:
    """Each table and function is declared in `TABLES` or `FUNCTIONS`, which decide who may use it.

    PUBLIC may execute no function.
    """
    with connected(roles_url) as execute:
        tables = execute(
            """SELECT relname FROM pg_class c WHERE relnamespace = 'public'::regnamespace
               AND relkind IN ('r', 'p', 'v') AND NOT relispartition AND NOT EXISTS
               (SELECT FROM pg_depend WHERE objid = c.oid AND deptype = 'e')"""
        )
        functions = execute(
            """SELECT proname FROM pg_proc p WHERE pronamespace = 'public'::regnamespace AND NOT EXISTS
               (SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')"""
        )
        open_to_all = execute(
            """SELECT proname FROM pg_proc p WHERE pronamespace = 'public'::regnamespace
               AND has_function_privilege('pg_monitor', p.oid, 'EXECUTE') AND NOT EXISTS
               (SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')"""
        )
    assert {name for (name,) in tables} == set(TABLES)
    assert {name for (name,) in functions} == set(FUNCTIONS)
    assert open_to_all == []


def test_passwords_are_stored_as_scram(roles_url: str) -> None:
    """Only the roles that log in have a password, and it is stored as SCRAM-SHA-256."""
    with connected(roles_url) as execute:
        rows = execute("SELECT rolname, rolpassword FROM pg_authid WHERE rolname = ANY(%s)", (list(ROLES),))
    stored = dict(rows)
    assert {name for name, verifier in stored.items() if verifier} == set(LOGINS)
    assert all(str(stored[name]).startswith("SCRAM-SHA-256$") for name in LOGINS)


def test_the_monitor_reads_statistics_and_no_rows(roles_url: str) -> None:
    """The monitor sees sessions, their statements and table sizes, but no row of a table with players."""
    with cursor_as(MONITOR, roles_url) as cursor, cursor_as(APP, roles_url) as other:
        other.execute("SELECT 1 AS seen_by_the_monitor")
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%seen_by_the_monitor'")
        assert cursor.fetchone() == (1,)
        cursor.execute("SELECT pg_total_relation_size('users'), count(*) > 0 FROM schema_migration")
        for table in set(TABLES) - {"schema_migration"}:
            for statement in (
                f"SELECT FROM {table}",
                f"DELETE FROM {table}",
                f"INSERT INTO {table} DEFAULT VALUES",
            ):
                with pytest.raises(errors.InsufficientPrivilege):
                    cursor.execute(statement)


LAST_MONTH = "SELECT max(to_date(substr(relname, 7), 'YYYY_MM')) FROM pg_class WHERE relname ~ '^ticks_20'"
NOT_A_MONTH = (
    "'2001-01-01 00:00+00'",
    "'infinity'",
    "NULL",
    # the next month, but its beginning is not midnight in UTC
    f"({LAST_MONTH}) + interval '1 month 1 hour'",
)


@pytest.mark.parametrize("month", NOT_A_MONTH)
def test_the_application_cannot_leave_a_gap_between_partitions(roles_url: str, month: str) -> None:
    """`ticks_create_partition` runs as the owner and refuses a time at which no coming month begins."""
    with cursor_as(APP, roles_url) as cursor, pytest.raises(errors.InvalidParameterValue):
        cursor.execute(f"SELECT ticks_create_partition({month})")


def test_functions_of_the_owner_ignore_the_search_path(roles_url: str) -> None:
    """`leaderboard_analyze` ignores a changed search path and a temporary table with the table's name."""
    with cursor_as(APP, roles_url) as cursor:
        cursor.execute("CREATE TEMPORARY TABLE leaderboard_entries (id int)")
        cursor.execute("SET search_path = pg_temp, public")
        cursor.execute("SELECT leaderboard_analyze()")
        cursor.execute("SELECT count(*) FROM pg_stats WHERE schemaname LIKE 'pg_temp%'")
        assert cursor.fetchone() == (0,)


@pytest.mark.parametrize("role", [MONITOR, PLAYER])
def test_other_roles_cannot_run_maintenance(roles_url: str, role: str) -> None:
    """The monitor and the player cannot call the maintenance functions."""
    with cursor_as(APP if role == PLAYER else role, roles_url) as cursor:
        if role == PLAYER:
            cursor.execute(f"SET ROLE {PLAYER}")
        for call in (
            "ticks_drop_partitions(now())",
            "ticks_create_partition(now())",
            "leaderboard_analyze()",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                cursor.execute(f"SELECT {call}")


@pytest.fixture
def app_settings(roles_url: str, valkey_server: ValkeyServer) -> Settings:
    """Return settings of a process that connects as the application role."""
    return settings_as(
        APP,
        roles_url,
        redis_url=SecretStr(valkey_server.url),
        redis_password=SecretStr(valkey_server.password),
        redis_key_prefix=f"{uuid4().hex[:8]}:",
    )


def test_the_self_test_passes_as_the_application(app_settings: Settings) -> None:
    """The self-test, which makes every call of the service, passes with the application's privileges."""
    lines: list[str] = []
    with open_service(app_settings) as service:
        is_passed = run_self_test(service, report=lines.append)
    assert is_passed, [line for line in lines if not line.startswith("ok")]


def test_a_refused_record_is_named_to_the_application(app_settings: Settings) -> None:
    """The error of a load names the refused record and its key, also in a transaction.

    Row security removes the key from the server's message, so the service has to find it.
    """
    today, one = datetime.now(UTC).date(), Decimal(1)
    with open_service(app_settings) as service, suppress(RolledBack), service.transaction():
        alice, bob = service.create_user(username="alice"), service.create_user(username="bob")
        service.get_current_portfolio(alice.id, today)
        positions = [Position(user.id, today, "AAPL", one, one) for user in (alice, bob)]
        with pytest.raises(ConstraintViolated, match=f"position 1 has user_id '{bob.id}' and session_date"):
            service.load_positions(positions)
        with pytest.raises(ConstraintViolated, match=f"user 1 has id '{bob.id}', which another user has"):
            service.load_users([alice, replace(bob, username="erin")])
        erin = replace(bob, id=new_id(), username="erin")
        with pytest.raises(ConstraintViolated, match=f"user 1 has id '{erin.id}', which another user has"):
            service.load_users([bob, erin, replace(erin, username="fred")])
        raise RolledBack


def test_the_application_maintains_partitions(app_settings: Settings) -> None:
    """As the application, `maintain_partitions` creates and drops months and moves ticks into them."""
    now = datetime.now(UTC)
    with open_service(app_settings) as service:
        before = service.maintain_partitions()
        assert before.dropped == ()
        service._clock = lambda: now + timedelta(days=200)
        service.insert_market_tick("AAPL", Decimal(7), timestamp=now + timedelta(days=100))
        created = service.maintain_partitions(months_ahead=1)
        assert len(created.created) >= 5
        assert created.moved == 1
        dropped = service.maintain_partitions(months_ahead=1, keep=timedelta(days=150))
        assert dropped.dropped[0] == "ticks_before"
        service.delete_market_ticks("AAPL")


def test_another_role_cannot_migrate(roles_url: str) -> None:
    """A migration with the application role raises an error that names the role and DIRECT_URL."""
    url = settings_as(APP, roles_url).database_url
    for direction in ("up", "down"):
        with pytest.raises(MigrationFailed, match=f"'{APP}' may not .*{OWNER}; point DIRECT_URL"):
            getattr(Migrator(Settings(database_url=url)), direction)()


def test_a_superuser_migrates_as_the_owner(roles_url: str) -> None:
    """After a migration as a superuser, every table belongs to the owner role.

    A function that belongs to a superuser would run with all privileges.
    """
    Migrator(Settings(database_url=SecretStr(roles_url))).up()
    with connected(roles_url) as execute:
        assert execute(
            """SELECT DISTINCT relowner::regrole::text FROM pg_class
               WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"""
        ) == [(OWNER,)]
