"""The load on real servers, and that a run fails when something is lost, stale or does not heal."""

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
from tests.chaos.report import Fault, Row, run_fault, show
from tests.patience import stretch

pytestmark = pytest.mark.slow

SECONDS = 10.0


def wait_for_rounds(load: Load) -> None:
    """Return when every thread has made some rounds."""
    writes = load.figures.writes
    assert wait_until(lambda: load.figures.writes >= writes + 100, seconds=stretch(SECONDS)), load.figures


@contextmanager
def deleted(settings: Settings) -> Iterator[None]:
    """Lose the rows of one write, as a database without its log would."""
    with open_cursor(settings.database_url.get_secret_value()) as cursor:
        cursor.execute("DELETE FROM ticks WHERE timestamp = '2026-03-02 00:00:01+00'")
    yield


@contextmanager
def nothing() -> Iterator[None]:
    """Break nothing."""
    yield


def test_without_a_fault_nothing_is_lost_stale_or_refused(settings: Settings) -> None:
    """Every call of the writer is acknowledged, and every read is answered with a current value."""
    with run_load(settings) as load:
        row = run_fault(Fault("nothing", nothing, stretch(SECONDS), 0.0), load, is_healthy=lambda: True)
    assert load.problems == []
    assert row.has_passed
    assert row.figures.writes > 0
    assert row.figures[2:] == (0, 0, 0, 0)
    assert count_games(settings) == 0, "its players and prices are removed"


def count_games(settings: Settings) -> int:
    """Return how many players and symbols a load has left."""
    with open_cursor(settings.database_url.get_secret_value()) as cursor:
        cursor.execute("SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM symbols)")
        [(count,)] = cursor.fetchall()
        return int(count)


def test_a_lost_write_is_counted(settings: Settings) -> None:
    """A lost write of a price is counted although later ones cover it."""
    with run_load(settings) as load:
        wait_for_rounds(load)
        fault = Fault("rows lost", partial(deleted, settings), stretch(SECONDS), 0.0)
        row = run_fault(fault, load, is_healthy=lambda: True)
    assert row.figures.lost == 4, load.problems
    assert not row.has_passed
    assert "price:0 = 1 was acknowledged and is not stored" in load.problems


def test_a_stale_read_is_counted(settings: Settings) -> None:
    """A writer that does not invalidate leaderboards causes stale reads, which are counted."""
    with run_load(settings, mutant="skip_leaderboard_versions") as load:
        assert wait_until(lambda: load.figures.stale > 0, seconds=stretch(SECONDS)), load.figures
    assert any(text.startswith("score:") for text in load.problems)


def test_what_does_not_heal_is_said(settings: Settings) -> None:
    """A stack that is still unhealthy at the end of the fault's bound makes the run fail."""
    with run_load(settings) as load:
        row = run_fault(Fault("nothing", nothing, 1.0, 0.0), load, is_healthy=lambda: False)
    assert (row.healed_seconds, row.has_passed) == (None, False)
    console = Console(file=io.StringIO(), width=140)
    show([row, Row("data folder full", Figures(), None, "not root")], ["price:0 is wrong"], console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "NOT HEALED" in shown
    assert "skipped: not root" in shown
    assert "price:0 is wrong" in shown
