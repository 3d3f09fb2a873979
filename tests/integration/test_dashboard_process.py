"""Tests of the dashboard as a process: probes, downloads, invalid settings, start and stop."""

import asyncio
import contextlib
import gzip
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from core import EnhancedDatabaseService, Settings
from core.stack.ports import find_free_port
from tests.bench.dashboard.visitor import Visitor
from tests.conftest import Execute, connected
from tests.dashboard_process import Dashboard, build_environment, run_dashboard
from tests.game import play_game
from tests.patience import stretch

VISITORS = 20
LOAD_SECONDS = 60.0

STOP_SECONDS = 5.0
"""Bound of a stop. An idle dashboard stops in less than a second."""


def test_probes_of_a_running_dashboard(settings: Settings, tmp_path: Path) -> None:
    """`/livez` and `/readyz` answer with status 200 and a short JSON document."""
    url = settings.database_url.get_secret_value()
    with run_dashboard(tmp_path, DATABASE_URL=url, ENABLE_REDIS_CACHE="false") as dashboard:
        assert dashboard.fetch("/livez") == (200, '{"status":"alive"}')
        assert dashboard.fetch("/readyz") == (200, '{"status":"ready"}')


def test_the_dashboard_starts_without_a_database(tmp_path: Path) -> None:
    """Without a database the process is alive, not ready, and serves the page. The log has no password."""
    url = f"postgresql://nobody:hidden@127.0.0.1:{find_free_port()}/nothing"
    with run_dashboard(tmp_path, DATABASE_URL=url, ENABLE_REDIS_CACHE="false") as dashboard:
        assert dashboard.fetch("/livez")[0] == 200
        assert dashboard.fetch("/readyz") == (503, '{"status":"database unavailable"}')
        assert dashboard.fetch("/")[0] == 200
    assert "hidden" not in dashboard.log.read_text()


def test_a_leaderboard_is_downloaded(
    service: EnhancedDatabaseService, settings: Settings, tmp_path: Path
) -> None:
    """The CSV file has all entries, best first, or only the header if there is none.

    An invalid category or date is answered with status 400.
    """
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
    """Without a database a download is answered with status 503 and one line of text."""
    url = f"postgresql://nobody:hidden@127.0.0.1:{find_free_port()}/nothing"
    with run_dashboard(tmp_path, DATABASE_URL=url, ENABLE_REDIS_CACHE="false") as dashboard:
        status, body = dashboard.fetch("/download/leaderboard.csv?category=a&day=2013-03-01")
        assert (status, body) == (503, "the database does not answer; try again\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_dashboard(
    settings: Settings,
    tmp_path: Path,
    execute: Callable[..., list[tuple[object, ...]]],
    number: signal.Signals,
) -> None:
    """SIGTERM or SIGINT ends the process within 5 s with status 0.

    It leaves no traceback in the log and no database connection.
    """
    url = settings.database_url.get_secret_value()
    with run_dashboard(tmp_path, DATABASE_URL=url, ENABLE_REDIS_CACHE="false") as dashboard:
        dashboard.fetch("/readyz")
        started = time.monotonic()
        dashboard.process.send_signal(number)
        assert dashboard.process.wait(10 * STOP_SECONDS) == 0
        assert time.monotonic() - started < stretch(STOP_SECONDS)
    assert "Traceback" not in dashboard.log.read_text()
    left = "select count(*) from pg_stat_activity where application_name = %s"
    assert execute(left, ("echo-markets-dashboard",)) == [(0,)]


async def _visit_until(ended: asyncio.Event, url: str, *, begun: list[int]) -> None:
    """Run the Leaderboards page repeatedly until the event is set or the server closes the connection."""
    with contextlib.suppress(OSError, EOFError, TimeoutError, ConnectionClosed):
        async with Visitor.connected(url) as visitor:
            while not ended.is_set():
                await visitor.begin()
                begun.append(1)
                await asyncio.wait_for(visitor.run(), STOP_SECONDS)


async def _stop_under_load(dashboard: Dashboard, *, is_loaded: Callable[[], bool]) -> float:
    """Send SIGTERM while visitors wait for their page. Return the seconds until the process ends."""
    ended, begun = asyncio.Event(), list[int]()
    visits = [asyncio.create_task(_visit_until(ended, dashboard.url, begun=begun)) for _ in range(VISITORS)]
    deadline = time.monotonic() + LOAD_SECONDS
    while not (len(begun) >= VISITORS and is_loaded()):
        assert time.monotonic() < deadline, "the load did not build up"
        await asyncio.sleep(0.05)
    started = time.monotonic()
    dashboard.process.send_signal(signal.SIGTERM)
    status = await asyncio.to_thread(dashboard.process.wait, 10 * STOP_SECONDS)
    seconds = time.monotonic() - started
    ended.set()
    await asyncio.gather(*visits)
    assert status == 0
    return seconds


def test_a_signal_under_load_stops_the_dashboard_within_5_seconds(
    service: EnhancedDatabaseService, database_url: str, tmp_path: Path, execute: Execute
) -> None:
    """SIGTERM stops the process although statements wait for a lock; no connection is left."""
    play_game(service)
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    waiting = f"{count} AND wait_event_type = 'Lock'"
    name = ("echo-markets-dashboard",)
    with (
        run_dashboard(tmp_path, DATABASE_URL=database_url, ENABLE_REDIS_CACHE="false") as dashboard,
        connected(database_url) as lock,
    ):
        lock("BEGIN")
        lock("LOCK TABLE portfolios, leaderboard_entries IN ACCESS EXCLUSIVE MODE")
        seconds = asyncio.run(
            _stop_under_load(dashboard, is_loaded=lambda: execute(waiting, name)[0][0] >= 5)
        )
        assert execute(count, name) == [(0,)]
    assert seconds < stretch(STOP_SECONDS)


def test_nothing_but_pages_is_public(settings: Settings, tmp_path: Path) -> None:
    """Streamlit's metrics are hidden, WebSockets of other origins are refused, and pages have a CSP."""
    url = settings.database_url.get_secret_value()
    with run_dashboard(tmp_path, DATABASE_URL=url, ENABLE_REDIS_CACHE="false") as dashboard:
        assert dashboard.fetch("/_stcore/metrics")[0] == 404
        assert dashboard.fetch("/_stcore/agent/openapi.json")[0] == 404
        with urlopen(dashboard.url, timeout=5) as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert "Server" not in answer.headers
        assert "script-src 'self' 'sha256-" in policy
        for origin in (None, "https://evil.example"):
            with pytest.raises(InvalidStatus, match="403"):
                asyncio.run(_connect(dashboard.url, origin))


async def _connect(url: str, origin: str | None) -> None:
    address = f"{url.replace('http', 'ws', 1)}/_stcore/stream"
    async with connect(address, origin=origin):  # type: ignore[arg-type]  # a text by another name
        pass


def test_scripts_are_sent_compressed(settings: Settings, tmp_path: Path) -> None:
    """A script with a hash in its name is sent with gzip and with `immutable` in Cache-Control."""
    url = settings.database_url.get_secret_value()
    with run_dashboard(tmp_path, DATABASE_URL=url, ENABLE_REDIS_CACHE="false") as dashboard:
        found = re.search(r'src="\.(/static/js/index\.[^"]+)"', dashboard.fetch("/")[1])
        assert found
        request = Request(dashboard.url + found[1], headers={"Accept-Encoding": "gzip"})
        with urlopen(request, timeout=30) as answer:
            body = answer.read()
            assert answer.headers["Content-Encoding"] == "gzip"
            assert "immutable" in answer.headers["Cache-Control"]
        plain = gzip.decompress(body)
        assert plain.decode() == dashboard.fetch(found[1])[1]
        assert len(body) < len(plain) / 2


def test_a_public_address_requires_a_sign_in(tmp_path: Path) -> None:
    """With DASHBOARD_HOST=0.0.0.0 and no sign-in the process exits with one line that names the remedies."""
    environment = build_environment(
        DATABASE_URL="postgresql://user:hidden@127.0.0.1/echo", DASHBOARD_HOST="0.0.0.0"
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
    assert "DASHBOARD_HOST is '0.0.0.0'" in ended.stderr
    assert "DASHBOARD_BEHIND=proxy" in ended.stderr


def test_a_wrong_setting_is_one_line_and_status_2(tmp_path: Path) -> None:
    """An invalid DASHBOARD_PORT ends the process with status 2 and one line, without the password."""
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
