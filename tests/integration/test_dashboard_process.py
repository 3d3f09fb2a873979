"""The dashboard as a process: probes, wrong settings, start and stop."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core import EnhancedDatabaseService, Settings
from core.local.ports import find_free_port
from tests.dashboard_process import build_environment, run_dashboard
from tests.game import play_game

STOP_SECONDS = 5.0
"""Idle it takes under a second; a loaded machine gets more."""


def test_probes_of_a_running_dashboard(settings: Settings, tmp_path: Path) -> None:
    """Alive and ready, both short JSON."""
    url = settings.database_url.get_secret_value()
    with run_dashboard(tmp_path, DATABASE_URL=url, ENABLE_REDIS_CACHE="false") as dashboard:
        assert dashboard.fetch("/livez") == (200, '{"status":"alive"}')
        assert dashboard.fetch("/readyz") == (200, '{"status":"ready"}')


def test_it_starts_without_a_database(tmp_path: Path) -> None:
    """Alive but not ready; the page itself is served."""
    url = f"postgresql://nobody:hidden@127.0.0.1:{find_free_port()}/nothing"
    with run_dashboard(tmp_path, DATABASE_URL=url, ENABLE_REDIS_CACHE="false") as dashboard:
        assert dashboard.fetch("/livez")[0] == 200
        assert dashboard.fetch("/readyz") == (503, '{"status":"database unavailable"}')
        assert dashboard.fetch("/")[0] == 200
    assert "hidden" not in dashboard.log.read_text()


def test_a_board_is_downloaded(service: EnhancedDatabaseService, settings: Settings, tmp_path: Path) -> None:
    """All rows, best first; an empty board is its header; what cannot be one is named."""
    play_game(service)
    url = settings.database_url.get_secret_value()
    with run_dashboard(tmp_path, DATABASE_URL=url, ENABLE_REDIS_CACHE="false") as dashboard:
        status, body = dashboard.fetch("/download/leaderboard.csv?category=daily_returns&day=2013-03-01")
        assert status == 200
        rows = [line.split(",")[:3] for line in body.splitlines()]
        assert rows == [
            ["rank", "username", "score"],
            ["1", "alice", "3.11"],
            ["2", "bob", "0.95"],
            ["3", "charlie", "-2.10"],
        ]
        empty = dashboard.fetch("/download/leaderboard.csv?category=luck&day=2013-03-01")
        assert (empty[0], len(empty[1].splitlines())) == (200, 1)
        for query, named in (
            ("category=a%20b&day=2013-03-01", "a b"),
            ("category=a&day=x", "'x'"),
            ("", "''"),
        ):
            status, body = dashboard.fetch(f"/download/leaderboard.csv?{query}")
            assert status == 400
            assert named in body


def test_a_download_without_a_database_is_unavailable(tmp_path: Path) -> None:
    """No traceback and no half of a file."""
    url = f"postgresql://nobody:hidden@127.0.0.1:{find_free_port()}/nothing"
    with run_dashboard(tmp_path, DATABASE_URL=url, ENABLE_REDIS_CACHE="false") as dashboard:
        status, body = dashboard.fetch("/download/leaderboard.csv?category=a&day=2013-03-01")
        assert (status, body) == (503, "the database does not answer; try again\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(
    settings: Settings,
    tmp_path: Path,
    execute: Callable[..., list[tuple[object, ...]]],
    number: signal.Signals,
) -> None:
    """Status 0, soon, without a traceback, and no connection is left."""
    url = settings.database_url.get_secret_value()
    with run_dashboard(tmp_path, DATABASE_URL=url, ENABLE_REDIS_CACHE="false") as dashboard:
        dashboard.fetch("/readyz")
        started = time.monotonic()
        dashboard.process.send_signal(number)
        assert dashboard.process.wait(STOP_SECONDS) == 0
        assert time.monotonic() - started < STOP_SECONDS
    assert "Traceback" not in dashboard.log.read_text()
    left = "select count(*) from pg_stat_activity where application_name = %s"
    assert execute(left, ("echo-markets-dashboard",)) == [(0,)]


def test_a_wrong_setting_is_one_line_and_status_2(tmp_path: Path) -> None:
    """The variable, its value and what is allowed; no traceback, no password."""
    environment = build_environment(
        DATABASE_URL="postgresql://user:hidden@127.0.0.1/echo", DASHBOARD_PORT="eighty"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "dashboard"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "DASHBOARD_PORT is 'eighty'" in ended.stderr
    assert "hidden" not in ended.stdout + ended.stderr
