"""`echo-markets seed` in a database with players: without consent it removes and adds nothing."""

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from core import EnhancedDatabaseService, Settings
from core.cli import main
from core.records import Portfolio
from tests.conftest import Execute
from tests.dashboard_process import build_environment
from tests.market_days import import_days
from tests.terminal import run_on_terminal

Run = Callable[..., Result]
REFUSED = 1
LIVE_DAY = date(2026, 1, 5)
FIRST = ("--players", "5", "--sessions", "3")
OTHER = ("--players", "6", "--sessions", "4")


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    """Return the environment variables that name the test's servers."""
    assert settings.redis_password is not None
    return {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "REDIS_PASSWORD": settings.redis_password.get_secret_value(),
    }


@pytest.fixture
def run(service: EnhancedDatabaseService, environment: dict[str, str], tmp_path: Path) -> Run:
    """Import a week of prices; return a function that runs the command without a terminal."""
    import_days(service, tmp_path, "2013-02-18")
    return lambda *arguments: CliRunner().invoke(main, ["seed", *arguments], env=environment)


def read_all(execute: Execute) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table."""
    tables = execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    return {name: execute(f"SELECT t::text FROM {name} AS t ORDER BY 1") for (name,) in tables}


def create_live_portfolio(service: EnhancedDatabaseService) -> Portfolio:
    """Create a portfolio of the first simulated player for a live session."""
    return service.get_current_portfolio(service.list_users(limit=1)[0].id, LIVE_DAY)


def test_a_seed_beside_real_players_needs_consent(
    run: Run, service: EnhancedDatabaseService, execute: Execute
) -> None:
    """If real players exist, the command names them, changes nothing and exits with 1; --replace seeds."""
    for name in ("alice", "bob", "charlie", "dora"):
        service.create_user(username=name)
    before = read_all(execute)
    refused = run(*FIRST)
    assert (refused.exit_code, refused.stdout) == (REFUSED, "")
    [line] = refused.stderr.splitlines()
    assert line == (
        "error: the database has 4 players (alice, bob, charlie, ...) that no seed has made; seeding removes"
        " nothing, and lets 5 simulated players play beside those who stay; nothing was changed;"
        " --replace continues anyway"
    )
    assert read_all(execute) == before
    done = run(*FIRST, "--replace")
    assert done.exit_code == 0, done.output
    assert execute("SELECT count(*) FROM users") == [(9,)]


def test_removing_live_sessions_needs_consent(
    run: Run, service: EnhancedDatabaseService, execute: Execute
) -> None:
    """A seed that would remove live sessions of simulated players exits with 1 unless --replace is given."""
    assert run(*FIRST).exit_code == 0
    portfolio = create_live_portfolio(service)
    before = read_all(execute)
    refused = run(*OTHER)
    assert refused.exit_code == REFUSED
    assert (
        "the database has 1 session (2026-01-05) that no seed has made; seeding removes 5 simulated players"
        " of another replay with all that is theirs, live sessions included, and lets 6 simulated players"
    ) in refused.stderr
    assert read_all(execute) == before
    alice = service.create_user(username="alice")
    service.get_current_portfolio(alice.id, LIVE_DAY)
    done = run(*OTHER, "--replace")
    assert done.exit_code == 0, done.output
    assert "replacing 5 simulated players of another replay" in done.stderr
    assert execute("SELECT user_id::text FROM portfolios WHERE session_date = %s", (LIVE_DAY,)) == [
        (str(alice.id),)
    ]
    assert service.find_portfolio(portfolio.user_id, LIVE_DAY) is None


def test_a_repeated_seed_needs_no_consent(
    run: Run, service: EnhancedDatabaseService, execute: Execute
) -> None:
    """The same seed needs no consent, because it removes no live sessions and changes no real players."""
    assert run(*FIRST).exit_code == 0
    create_live_portfolio(service)
    service.create_user(username="alice")
    before = read_all(execute)
    repeated = run(*FIRST)
    assert (repeated.exit_code, "(0 rows new or changed)" in repeated.stdout) == (0, True), repeated.output
    assert read_all(execute) == before


def test_a_seed_without_live_sessions_needs_no_consent(run: Run, execute: Execute) -> None:
    """An empty database, or one with only simulated players of another seed, is seeded without consent."""
    first = run(*FIRST)
    assert (first.exit_code, "replacing" in first.stderr) == (0, False), first.output
    second = run(*OTHER)
    assert second.exit_code == 0, second.output
    assert "replacing 5 simulated players of another replay" in second.stderr
    assert "5 players of another replay removed" in second.stdout
    assert execute("SELECT count(*) FROM users") == [(6,)]


def test_a_player_with_changed_preferences_would_be_removed(
    run: Run, service: EnhancedDatabaseService, execute: Execute
) -> None:
    """A simulated player whose preferences do not name its seed would be removed, so consent is needed."""
    assert run(*FIRST).exit_code == 0
    player = service.list_users(limit=1)[0]
    service.update_user_profile(player.id, username="alice", preferences={})
    create_live_portfolio(service)
    before = read_all(execute)
    refused = run(*FIRST)
    assert (refused.exit_code, "removes 1 simulated player" in refused.stderr) == (REFUSED, True), (
        refused.output
    )
    assert read_all(execute) == before


def test_scores_alone_are_a_session(run: Run, service: EnhancedDatabaseService) -> None:
    """A day with leaderboard entries but without portfolios counts as a session."""
    user = service.create_user(username="alice")
    service.update_leaderboard_entry(user.id, "puzzles", Decimal(1), LIVE_DAY)
    refused = run(*FIRST)
    assert refused.exit_code == REFUSED
    assert "1 player (alice) and 1 session (2026-01-05) that no seed has made" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "status"), [("n", REFUSED), ("y", 0)])
def test_a_terminal_user_is_asked(
    answer: str,
    status: int,
    run: Run,  # the fixture imports the prices
    environment: dict[str, str],
    service: EnhancedDatabaseService,
    execute: Execute,
) -> None:
    """On a terminal the command asks "continue anyway? [y/N]" and changes rows only after "y"."""
    service.create_user(username="alice")
    before = read_all(execute)
    typed = run_on_terminal("seed", *FIRST, answer=answer, environment=build_environment(**environment))
    assert typed.status == status, typed.shown
    assert "1 player (alice) that no seed has made" in typed.shown
    assert "continue anyway? [y/N]" in typed.shown
    assert (read_all(execute) == before) == (status != 0)
