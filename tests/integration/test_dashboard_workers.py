"""Tests of a dashboard with several worker processes: load, limits, downloads, and ends of workers."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import psutil
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from websockets.exceptions import ConnectionClosed, InvalidStatus

from core import EnhancedDatabaseService
from core.settings.texts import LOOPBACK
from core.stack.ports import find_free_port
from dashboard.navigation import SCRIPTS
from dashboard.server.page_limits import HostPageLimits
from tests.bench.dashboard.visitor import Visitor
from tests.conftest import Execute
from tests.dashboard_process import Dashboard, build_environment, run_dashboard
from tests.game import play_game
from tests.oidc_provider import run_provider
from tests.patience import stretch, wait_until

WAIT_SECONDS = 60.0
STOP_SECONDS = 5.0
VISITORS = 8


@pytest.fixture
def dashboard(service: EnhancedDatabaseService, database_url: str, tmp_path: Path) -> Iterator[Dashboard]:
    """Yield a dashboard with two ready workers and a limit of twelve open pages."""
    play_game(service)
    with run_dashboard(
        tmp_path,
        DATABASE_URL=database_url,
        ENABLE_REDIS_CACHE="false",
        DASHBOARD_WORKERS="2",
        DASHBOARD_CONNECTIONS="12",
    ) as dashboard:
        wait_until(lambda: count_ready(dashboard) == 2, "two workers are ready", WAIT_SECONDS)
        yield dashboard


def count_ready(dashboard: Dashboard) -> int:
    """Return how often a worker has become ready, by the log."""
    return dashboard.log.read_text().count(" is ready")


def list_workers(dashboard: Dashboard) -> list[psutil.Process]:
    """Return the worker processes of the dashboard, the oldest first."""
    return psutil.Process(dashboard.process.pid).children()


def count_connections(dashboard: Dashboard, worker: psutil.Process) -> int:
    """Return the number of connections to a worker."""
    port = int(dashboard.url.rpartition(":")[2])
    return sum(bool(each.laddr) and each.laddr.port == port for each in worker.net_connections("tcp"))


async def open_pages(dashboard: Dashboard, stack: AsyncExitStack, pages: int) -> list[Visitor]:
    """Connect this number of visitors concurrently."""
    opened = (stack.enter_async_context(Visitor.connected(dashboard.url)) for _ in range(pages))
    return list(await asyncio.gather(*opened))


async def is_connected(visitor: Visitor) -> bool:
    """Run the visitor's page. Return False if its connection is closed."""
    try:
        run = await visitor.run(page="leaderboards")
    except ConnectionClosed:
        return False
    assert run.problem is None
    return True


@pytest.mark.slow
def test_visitors_are_spread_evenly_and_outlive_a_worker(dashboard: Dashboard) -> None:
    """Twelve visitors are spread evenly; if a worker is killed, only its six have to reconnect.

    The limit of twelve pages applies to all workers together. The pages of a killed worker are not counted,
    and a new worker replaces it.
    """

    async def visit() -> None:
        killed, kept = list_workers(dashboard)
        async with AsyncExitStack() as stack:
            visitors = await open_pages(dashboard, stack, 12)
            assert all([await is_connected(visitor) for visitor in visitors])
            assert [count_connections(dashboard, each) for each in (killed, kept)] == [6, 6]
            for _ in range(2):
                with pytest.raises(InvalidStatus, match="403"):
                    await open_pages(dashboard, stack, 1)
            killed.send_signal(signal.SIGKILL)
            message = f"worker {killed.pid} ended with status -9; another one starts"
            wait_until(lambda: message in dashboard.log.read_text(), "the kill is noticed", WAIT_SECONDS)
            # the six visitors of the killed worker can connect before its replacement is ready
            again = await open_pages(dashboard, stack, 6)
            assert all([await is_connected(visitor) for visitor in again])
            # a client may notice the end of its connection a moment later
            for _ in range(100):
                connected = [await is_connected(visitor) for visitor in visitors].count(True)
                if connected == 6:
                    break
                await asyncio.sleep(0.05)
            assert connected == 6
            with pytest.raises(InvalidStatus, match="403"):
                await open_pages(dashboard, stack, 1)
        wait_until(
            lambda: count_ready(dashboard) == 3, "a worker takes the place of the killed one", WAIT_SECONDS
        )
        assert kept in list_workers(dashboard)
        assert len(list_workers(dashboard)) == 2

    asyncio.run(visit())


@pytest.mark.slow
def test_all_workers_give_the_same_answers(dashboard: Dashboard) -> None:
    """Probes, downloads and pages are the same from each worker."""
    for _ in range(4):
        assert dashboard.fetch("/livez") == (200, '{"status":"alive"}')
        assert dashboard.fetch("/readyz") == (200, '{"status":"ready"}')
    answers = {
        dashboard.fetch("/download/leaderboard.csv?category=daily_returns&day=2013-03-01") for _ in range(4)
    }
    assert len(answers) == 1
    assert "alice" in answers.pop()[1]
    first_pages = {dashboard.fetch("/")[1] for _ in range(4)}
    assert len(first_pages) == 1

    async def read_pages() -> bytes:
        sent = b""
        for page in SCRIPTS:
            async with Visitor.connected(dashboard.url) as visitor:
                await visitor.begin(page=page)
                sent += await visitor.receive_run()
        return sent

    # a page must not use `/media/`: Streamlit keeps these files in the memory of one worker
    assert b"/media/" not in asyncio.run(read_pages())


@pytest.mark.slow
def test_a_signal_stops_all_workers(dashboard: Dashboard, execute: Execute) -> None:
    """After SIGTERM the dashboard exits with 0 within 5 s; no worker or database connection is left."""

    async def stop() -> float:
        async with AsyncExitStack() as stack:
            for visitor in await open_pages(dashboard, stack, VISITORS):
                await visitor.begin(page="leaderboards")
            started = time.monotonic()
            dashboard.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(dashboard.process.wait, 10 * STOP_SECONDS) == 0
            return time.monotonic() - started

    workers = list_workers(dashboard)
    assert asyncio.run(stop()) < stretch(STOP_SECONDS)
    assert not any(worker.is_running() for worker in workers)
    left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'echo-markets-dashboard'"
    assert execute(left) == [(0,)]


@pytest.mark.slow
def test_a_paused_worker_and_a_killed_parent(dashboard: Dashboard) -> None:
    """A paused worker soon gets no new connections. If the parent process is killed, the workers end."""
    workers = list_workers(dashboard)
    workers[0].suspend()
    wait_until(
        lambda: all(is_answering(dashboard) for _ in range(6)),
        "no request reaches the paused worker",
        WAIT_SECONDS,
    )
    workers[0].resume()
    dashboard.process.kill()
    dashboard.process.wait(10)
    port = int(dashboard.url.rpartition(":")[2])
    socket.create_server((LOOPBACK, port)).close()
    _, alive = psutil.wait_procs(workers, timeout=stretch(STOP_SECONDS))
    assert not alive


def is_answering(dashboard: Dashboard) -> bool:
    """Return whether `/livez` answers with status 200."""
    try:
        return dashboard.fetch("/livez")[0] == 200
    except OSError:
        return False


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    """If the port is taken, the process ends with one line that names the address and DASHBOARD_PORT."""
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [sys.executable, "-m", "dashboard"],
            cwd=tmp_path,
            env=build_environment(
                DATABASE_URL="postgresql://user@127.0.0.1/echo", DASHBOARD_PORT=port, DASHBOARD_WORKERS="2"
            ),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode != 0
    assert ended.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1, port {port}" in ended.stderr
    assert "DASHBOARD_PORT" in ended.stderr


def test_a_closed_page_is_not_counted() -> None:
    """After a page is closed, another client can open one within the total limit."""

    async def open_and_close() -> None:
        page_limits = HostPageLimits(max_open=2, max_of_client=1)
        assert await page_limits.enter("alice", is_known=True)
        assert not await page_limits.enter("alice", is_known=True)
        assert await page_limits.enter("bob", is_known=True)
        assert not await page_limits.enter("charlie", is_known=True)
        page_limits.leave("alice", is_known=True)
        assert await page_limits.enter("charlie", is_known=True)

    asyncio.run(open_and_close())


@pytest.mark.slow
def test_a_sign_in_is_known_to_every_worker(
    service: EnhancedDatabaseService, database_url: str, tmp_path: Path
) -> None:
    """After a sign-in all workers serve downloads, although each request may reach another worker."""
    play_game(service)
    with run_provider(f"http://{LOOPBACK}:{find_free_port()}/oauth2callback") as provider:
        provider.claims = {"sub": "2", "email": "victor@example.com", "email_verified": True}
        settings = provider.settings() | {"DATABASE_URL": database_url, "ENABLE_REDIS_CACHE": "false"}
        port = int(provider.redirect_uri.rpartition(":")[2].partition("/")[0])
        with run_dashboard(tmp_path, port=port, DASHBOARD_WORKERS="2", **settings) as dashboard:
            wait_until(lambda: count_ready(dashboard) == 2, "two workers are ready", WAIT_SECONDS)
            secret = OctKey.import_key(settings["OIDC_COOKIE_SECRET"])
            # a page's sign-in button puts such a token into its link, and any worker has to accept it
            token = jwt.encode(
                {"alg": "HS256"}, {"provider": "default", "exp": int(time.time()) + 120}, secret
            )
            limits = httpx2.Limits(max_keepalive_connections=0)
            with httpx2.Client(limits=limits, follow_redirects=True) as browser:
                file = f"{dashboard.url}/download/leaderboard.csv?category=daily_returns&day=2013-03-01"
                assert {browser.get(file).status_code for _ in range(2)} == {401}
                assert (
                    browser.get(f"{dashboard.url}/auth/login", params={"provider": token}).status_code == 200
                )
                answers = [browser.get(file) for _ in range(4)]
            assert {answer.status_code for answer in answers} == {200}
            assert all("alice" in answer.text for answer in answers)
