"""`echo-markets migrate down` on a database with rows: it lists rows that would be lost and asks first."""

from decimal import Decimal

import pytest
from click.testing import CliRunner, Result
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings
from core.cli import main
from core.errors import RowsWouldBeLost
from core.migration import Migrator
from tests.conftest import Execute
from tests.dashboard_process import build_environment
from tests.terminal import run_on_terminal

SESSIONS = "0002_sessions"
APPLIED = "SELECT name FROM schema_migration ORDER BY name"


@pytest.fixture
def _filled(service: EnhancedDatabaseService) -> None:
    """Store one player with a portfolio and a score, and one tick."""
    user = service.create_user(username="alice")
    service.get_current_portfolio(user.id)
    service.update_leaderboard_entry(user.id, "total_value", Decimal(1))
    service.insert_market_tick("AAPL", Decimal(1))


@pytest.fixture
def environment(database_url: str) -> dict[str, str]:
    """Return the environment variables of a process that uses the test's database."""
    return build_environment(DATABASE_URL=database_url, ENABLE_REDIS_CACHE="false")


def run(database_url: str, *arguments: str) -> Result:
    """Run `echo-markets migrate down` on the test's database, without a terminal."""
    environment = {"DATABASE_URL": database_url, "ENABLE_REDIS_CACHE": "false"}
    return CliRunner().invoke(main, ["migrate", "down", *arguments], env=environment)


@pytest.mark.usefixtures("_filled")
def test_tables_with_rows_are_dropped_only_with_drop_rows(database_url: str, execute: Execute) -> None:
    """Without --drop-rows one line lists the tables with rows, the exit status is 1, and no table changes."""
    applied, portfolios = execute(APPLIED), execute("SELECT * FROM portfolios")
    refused = run(database_url, "--to", SESSIONS)
    assert (refused.exit_code, refused.stdout) == (1, "")
    [line] = refused.stderr.splitlines()
    for lost in ("leaderboard_counters (1 row)", "leaderboard_entries (1 row)", "portfolios (1 row)"):
        assert lost in line
    # no rows of these tables would be lost: they are empty or are kept
    assert [
        name for name in ("quests", "market_events", "audit_events", "ticks", "users") if f"{name} (" in line
    ] == []
    assert line.endswith("nothing was changed; --drop-rows continues anyway")
    assert execute(APPLIED) == applied
    assert execute("SELECT * FROM portfolios") == portfolios
    done = run(database_url, "--to", SESSIONS, "--drop-rows")
    assert (done.exit_code, f"reverted {SESSIONS}" in done.stdout) == (0, True), done.output
    assert execute("SELECT to_regclass('portfolios')") == [(None,)]
    assert execute("SELECT symbol FROM ticks") == [("AAPL",)]


def test_empty_tables_are_dropped_without_a_question(database_url: str, execute: Execute) -> None:
    """If no row would be lost, the command drops the tables and asks no question."""
    done = run(database_url, "--to", SESSIONS)
    assert (done.exit_code, done.stderr) == (0, "")
    assert execute("SELECT to_regclass('portfolios')") == [(None,)]


def test_dropping_a_column_with_values_is_refused(empty_database_url: str, empty_execute: Execute) -> None:
    """A column that `up` added to an adopted table counts as lost rows if the table has rows."""
    empty_execute("CREATE TABLE users (id uuid PRIMARY KEY, username text)")
    empty_execute("INSERT INTO users VALUES (gen_random_uuid(), 'alice')")
    empty_execute("COMMENT ON TABLE users IS 'echo-markets'")
    migrator = Migrator(Settings(database_url=SecretStr(empty_database_url)))
    names = migrator.up()
    with pytest.raises(RowsWouldBeLost, match=r"users\.preferences \(1 row\)"):
        migrator.down(names[0], drop_rows=False)
    assert len(empty_execute("SELECT * FROM schema_migration")) == len(names)


@pytest.mark.slow
@pytest.mark.usefixtures("_filled")
@pytest.mark.parametrize(("answer", "status"), [("n", 1), ("", 1), ("y", 0)])
def test_on_a_terminal_the_command_asks(
    answer: str, status: int, database_url: str, execute: Execute, environment: dict[str, str]
) -> None:
    """On a terminal the command lists the rows that would be lost and continues only after "y"."""
    typed = run_on_terminal("migrate", "down", "--to", SESSIONS, answer=answer, environment=environment)
    assert typed.status == status
    assert "portfolios (1 row)" in typed.shown
    assert "continue anyway? [y/N]" in typed.shown
    is_kept = execute("SELECT to_regclass('portfolios') IS NOT NULL") == [(True,)]
    assert is_kept == (status != 0)
    assert ("error: nothing was changed" in typed.shown) == is_kept
    assert (f"reverted {SESSIONS}" in typed.output) != is_kept
