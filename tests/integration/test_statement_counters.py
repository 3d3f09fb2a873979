"""Statements carry their operation as a tag, and pg_stat_statements is summed up by this tag."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.database.bounded_connection import BoundedConnection, BoundedConnector
from core.queries import server_statistics
from core.selftest import run_self_test
from core.testing import PostgresServer
from exporter.collectors.statements import StatementCounters
from tests.conftest import Execute

# A substitute for the extension pg_stat_statements, which some packages lack: the columns that are read,
# and a row in pg_extension. Its schema is on no search path.
SUBSTITUTE = """
    CREATE SCHEMA "50 % monitoring";
    SET search_path = "50 % monitoring";
    INSERT INTO pg_extension
        SELECT 1, 'pg_stat_statements', 10, oid, false, '1.0'
        FROM pg_namespace WHERE nspname = current_schema();
    CREATE TABLE statements (dbid oid, queryid bigint, query text, calls bigint,
                             total_exec_time float8, mean_exec_time float8, rows bigint);
    CREATE FUNCTION pg_stat_statements(showtext boolean) RETURNS SETOF statements LANGUAGE sql
        SET search_path FROM CURRENT
        AS 'SELECT dbid, queryid, CASE WHEN showtext THEN query END, calls, total_exec_time,
                   mean_exec_time, rows FROM statements'"""

# Statements without a tag: control of transactions, COPY, and the check of a new connection.
UNTAGGED = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "COPY", "WITH session AS")


@pytest.fixture
def statements(execute: Execute, database_url: str) -> Callable[..., None]:
    """Return a function that replaces pg_stat_statements by rows of (id, text, calls, milliseconds, rows)."""
    for statement in SUBSTITUTE.split(";\n"):
        execute(statement)
    [(name,)] = execute("SELECT current_database()")
    execute(f"ALTER DATABASE {name} SET pg_stat_statements.track = 'top'")

    def replace_rows(*rows: tuple[int, str, int, float, int]) -> None:
        execute("DELETE FROM statements")
        for queryid, text, calls, milliseconds, row_count in rows:
            execute(
                "INSERT INTO statements SELECT oid, %s, %s, %s, %s, %s, %s FROM pg_database"
                " WHERE datname = current_database()",
                (queryid, text, calls, milliseconds, milliseconds / max(calls, 1), row_count),
            )

    return replace_rows


def test_a_forbidden_schema_gives_no_statements(
    statements: Callable[..., None], execute: Execute, settings: Settings, postgres_server: PostgresServer
) -> None:
    """If the role may not use the extension's schema, the collector reports no statements and no error."""
    role = "outsider"
    execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    own = settings.database_url.get_secret_value()
    url = SecretStr(own.replace(f"postgres:{postgres_server.password}@", f"{role}:x@"))
    changed = settings.model_copy(update={"database_url": url})
    try:
        with contextlib.closing(BoundedConnector(changed, "c", limit_seconds=5).open()) as connection:
            assert collect_totals(StatementCounters(["create_user"]), connection) == {}
    finally:
        execute(f"DROP ROLE {role}")


def collect_totals(
    counters: StatementCounters, connection: BoundedConnection
) -> dict[str, tuple[float, ...]]:
    """Return calls, seconds and rows of each operation."""
    found: dict[str, tuple[float, ...]] = {}
    for family in counters.collect(connection):
        for sample in family.samples:
            found[sample.labels["op"]] = (*found.get(sample.labels["op"], ()), sample.value)
    return found


def test_statements_are_summed_up_by_operation(statements: Callable[..., None], settings: Settings) -> None:
    """A tag at the end names the operation; statements without a known tag count as `other`."""
    statements(
        (1, "SELECT $1 /* op=get_leaderboard */", 10, 500.0, 100),
        (2, "WITH x AS (SELECT) SELECT /* op=get_leaderboard */", 5, 250.0, 1),
        (3, "SELECT 1", 7, 70.0, 7),
        (4, "SELECT 2 /* op=drop_everything */", 1, 10.0, 1),
    )
    with contextlib.closing(BoundedConnector(settings, "c", limit_seconds=5).open()) as connection:
        found = collect_totals(StatementCounters(["get_leaderboard", "create_user"]), connection)
    assert found == {
        "get_leaderboard": (15, pytest.approx(0.75), 101),
        "other": (8, pytest.approx(0.08), 8),
    }


def test_counters_never_decrease(statements: Callable[..., None], settings: Settings) -> None:
    """Counters do not decrease when the server discards a statement or resets its statistics."""
    tagged = "SELECT $1 /* op=create_user */"
    counters = StatementCounters(["create_user", "search_users"])
    with contextlib.closing(BoundedConnector(settings, "c", limit_seconds=5).open()) as connection:
        statements((1, tagged, 100, 1000.0, 100), (2, tagged, 1, 10.0, 1))
        assert collect_totals(counters, connection)["create_user"] == (101, pytest.approx(1.01), 101)
        # statement 1 was discarded, statement 2 has two more calls
        statements((2, tagged, 3, 30.0, 3))
        assert collect_totals(counters, connection)["create_user"] == (103, pytest.approx(1.03), 103)
        # statement 1 is back with another operation, and statement 2 was reset
        statements((1, "SELECT $1 /* op=search_users */", 4, 40.0, 4), (2, tagged, 1, 10.0, 1))
        found = collect_totals(counters, connection)
        assert found["create_user"] == (104, pytest.approx(1.04), 104)
        assert found["search_users"] == (4, pytest.approx(0.04), 4)


def test_slowest_statements_have_a_tag(statements: Callable[..., None], settings: Settings) -> None:
    """Statements without a tag are left out, because their texts may contain a password."""
    statements(
        (1, "SELECT $1 /* op=get_leaderboard */", 10, 500.0, 100),
        (2, "ALTER ROLE echo PASSWORD 's3cr3t'", 1, 9000.0, 0),
        (3, "SELECT $2 /* op=create_user */", 2, 800.0, 2),
    )
    with open_service(settings) as service:
        found = service.list_slowest_statements(5)
        assert found is not None
        assert [(each.operation, each.statement, each.mean_seconds) for each in found] == [
            ("create_user", "SELECT $2", pytest.approx(0.4)),
            ("get_leaderboard", "SELECT $1", pytest.approx(0.05)),
        ]
        assert len(service.list_slowest_statements(1) or ()) == 1


def test_every_statement_has_a_known_tag(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statement of a self-test has a tag that the exporter knows, also in nested calls."""
    known = {name for name in dir(EnhancedDatabaseService) if not name.startswith("_")}
    sent: list[str] = []
    with open_service(settings) as service:
        watch = service._database._watch
        run = watch.run

        def record_and_run(raw: Any, limit: float, statement: Any, *arguments: Any) -> Any:
            sent.append(arguments[0] if isinstance(arguments[0], str) else arguments[0].decode())
            return run(raw, limit, statement, *arguments)

        monkeypatch.setattr(watch, "run", record_and_run)
        assert run_self_test(service, report=lambda _: None)
        with service.transaction():
            service.create_user(username="alice")
    tags = [tag[1] for tag in map(server_statistics.TAG.search, sent) if tag]
    # these tags are for the events of an audited action, and for the self-test's removal of its rows
    assert set(tags) - known <= {"start_audit_event", "finish_audit_event", "self_test"}
    assert tags[-1] == "create_user"
    untagged = [each for each in sent if not server_statistics.TAG.search(each)]
    assert all(each.startswith(UNTAGGED) for each in untagged), untagged
