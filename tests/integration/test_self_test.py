"""The self-test: a line per call, nothing left behind, and failures that show."""

from decimal import Decimal

import pytest

from core import EnhancedDatabaseService
from core.selftest import run_self_test
from tests.conftest import Execute

TABLES = ("users", "ticks", "portfolios", "quests", "leaderboard_entries", "market_events")


def test_every_call_passes_and_nothing_stays(service: EnhancedDatabaseService, execute: Execute) -> None:
    """Each public call has its line, and the tables are as they were."""
    service.create_user(username="alice")
    service.insert_market_tick("AAPL", Decimal(1))
    before = [execute(f"SELECT * FROM {table}") for table in TABLES]
    lines: list[str] = []
    assert run_self_test(service, report=lines.append), lines
    assert [execute(f"SELECT * FROM {table}") for table in TABLES] == before
    calls = {line.split()[1] for line in lines if line.startswith("ok")}
    public = {
        name
        for name in dir(service)
        if not name.startswith("_") and callable(getattr(service, name)) and name != "close"
    }
    assert calls == public
    assert lines[-1] == "all calls passed"


def test_it_can_be_repeated_at_once(service: EnhancedDatabaseService) -> None:
    """What the first run has left in the cache does not fail the second."""
    for _ in range(2):
        lines: list[str] = []
        assert run_self_test(service, report=lines.append), lines


def test_a_broken_call_fails_the_run_and_cleans_up(
    service: EnhancedDatabaseService, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line says what was wrong; the throw-away player is removed all the same."""
    monkeypatch.setattr(service, "get_leaderboard", lambda *_: ())
    lines: list[str] = []
    assert not run_self_test(service, report=lines.append)
    assert any(line.startswith("FAIL get_leaderboard ") for line in lines)
    assert execute("SELECT count(*) FROM users") == [(0,)]


def test_a_schema_that_is_missing_is_a_failure_and_no_traceback(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """What cannot be tried is said, and the user is removed as far as that goes."""
    execute("DROP TABLE quests, trades, positions, portfolios, leaderboard_entries, market_events")
    lines: list[str] = []
    assert not run_self_test(service, report=lines.append)
    assert lines[-1].startswith("failed: ")
