"""On real servers, the load counts lost writes and stale reads, and a fault that does not heal fails."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from rich.console import Console

from core import Settings
from core.stack.embedded_servers import open_cursor
from core.stack.processes import wait_until
from tests.chaos.load import Figures, Load, run_load
from tests.chaos.report import Fault, FaultResult, print_results, run_fault
from tests.patience import stretch

pytestmark = pytest.mark.slow

SECONDS = 10.0


def wait_for_writes(load: Load) -> None:
    """Wait until the writer has made 100 more writes."""
    writes = load.figures.writes
    assert wait_until(lambda: load.figures.writes >= writes + 100, seconds=stretch(SECONDS)), load.figures


@contextmanager
def lost_ticks(settings: Settings) -> Iterator[None]:
    """Delete the first tick of each symbol, as if PostgreSQL had lost these rows in a crash."""
    with open_cursor(settings.database_url.get_secret_value()) as cursor:
        cursor.execute("DELETE FROM ticks WHERE timestamp = '2026-03-02 00:00:01+00'")
    yield


@contextmanager
def no_fault() -> Iterator[None]:
    """Cause no fault."""
    yield


def test_without_a_fault_nothing_is_lost_stale_or_refused(settings: Settings) -> None:
    """Without a fault, every write is acknowledged and every read returns a current value."""
    with run_load(settings) as load:
        result = run_fault(Fault("nothing", no_fault, stretch(SECONDS), 0.0), load, is_healthy=lambda: True)
    assert load.problems == []
    assert result.has_passed
    assert result.figures.writes > 0
    assert result.figures[2:] == (0, 0, 0, 0)
    assert count_players_and_symbols(settings) == 0, "the load deletes its players and prices"


def count_players_and_symbols(settings: Settings) -> int:
    """Return the number of players and symbols in the database."""
    with open_cursor(settings.database_url.get_secret_value()) as cursor:
        cursor.execute("SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM symbols)")
        [(count,)] = cursor.fetchall()
        return int(count)


def test_a_lost_write_is_counted(settings: Settings) -> None:
    """A lost price counts as a lost write even if later prices are stored."""
    with run_load(settings) as load:
        wait_for_writes(load)
        fault = Fault("rows lost", partial(lost_ticks, settings), stretch(SECONDS), 0.0)
        result = run_fault(fault, load, is_healthy=lambda: True)
    assert result.figures.lost == 4, load.problems
    assert not result.has_passed
    assert "price:0 = 1 was acknowledged and is not stored" in load.problems


def test_a_stale_read_is_counted(settings: Settings) -> None:
    """If the writer does not invalidate leaderboards, their stale reads are counted."""
    with run_load(settings, mutant="skip_leaderboard_versions") as load:
        assert wait_until(lambda: load.figures.stale > 0, seconds=stretch(SECONDS)), load.figures
    assert any(text.startswith("score:") for text in load.problems)


def test_a_fault_that_does_not_heal_fails(settings: Settings) -> None:
    """If the stack is unhealthy until the limit, the fault fails and the table says NOT HEALED."""
    with run_load(settings) as load:
        result = run_fault(Fault("nothing", no_fault, 1.0, 0.0), load, is_healthy=lambda: False)
    assert (result.healed_seconds, result.has_passed) == (None, False)
    console = Console(file=io.StringIO(), width=140)
    print_results(
        [result, FaultResult("data folder full", Figures(), None, "not root")], ["price:0 is wrong"], console
    )
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "NOT HEALED" in shown
    assert "skipped: not root" in shown
    assert "price:0 is wrong" in shown
