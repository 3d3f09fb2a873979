"""`echo-markets migrate down` on a database with rows: it says what goes, asks, and changes nothing else."""

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
    """One player with a portfolio and a score, and one tick."""
    user = service.create_user(username="alice")
    service.get_current_portfolio(user.id)
    service.update_leaderboard_entry(user.id, "total_value", Decimal(1))
    service.insert_market_tick("AAPL", Decimal(1))


@pytest.fixture
def environment(database_url: str) -> dict[str, str]:
    """The variables that a process needs."""
    return build_environment(DATABASE_URL=database_url, ENABLE_REDIS_CACHE="false")


def run(database_url: str, *arguments: str) -> Result:
    """Run a command on the test's database, without a terminal."""
    environment = {"DATABASE_URL": database_url, "ENABLE_REDIS_CACHE": "false"}
    return CliRunner().invoke(main, ["migrate", "down", *arguments], env=environment)


@pytest.mark.usefixtures("_filled")
def test_tables_with_rows_are_kept_unless_that_is_wanted(database_url: str, execute: Execute) -> None:
    """One line names them with their rows, the exit status is 1, and the schema is unchanged."""
    applied, portfolios = execute(APPLIED), execute("SELECT * FROM portfolios")
    refused = run(database_url, "--to", SESSIONS)
    assert (refused.exit_code, refused.stdout) == (1, "")
    [line] = refused.stderr.splitlines()
    for lost in ("leaderboard_counters (1 row)", "leaderboard_entries (1 row)", "portfolios (1 row)"):
        assert lost in line
    # without rows, or the same table in another form afterwards
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


def test_empty_tables_go_without_a_question(database_url: str, execute: Execute) -> None:
    """No row would be lost."""
    done = run(database_url, "--to", SESSIONS)
    assert (done.exit_code, done.stderr) == (0, "")
    assert execute("SELECT to_regclass('portfolios')") == [(None,)]


def test_columns_with_rows_count_too(empty_database_url: str, empty_execute: Execute) -> None:
    """A column that `up` added to an older table is dropped with the values stored since."""
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
def test_a_person_is_asked(
    answer: str, status: int, database_url: str, execute: Execute, environment: dict[str, str]
) -> None:
    """On a terminal the question follows the list of what would be lost; only a yes continues."""
    typed = run_on_terminal("migrate", "down", "--to", SESSIONS, answer=answer, environment=environment)
    assert typed.status == status
    assert "portfolios (1 row)" in typed.shown
    assert "continue anyway? [y/N]" in typed.shown
    is_kept = execute("SELECT to_regclass('portfolios') IS NOT NULL") == [(True,)]
    assert is_kept == (status != 0)
    assert ("error: nothing was changed" in typed.shown) == is_kept
    assert (f"reverted {SESSIONS}" in typed.output) != is_kept
