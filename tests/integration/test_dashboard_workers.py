"""Several processes serve one dashboard: even load, a killed one, limits, probes, downloads, stops."""

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
    """A dashboard of two workers, both ready, with room for twelve pages."""
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
    """Return how many workers have become ready so far."""
    return dashboard.log.read_text().count(" is ready")


def list_workers(dashboard: Dashboard) -> list[psutil.Process]:
    """Return the processes that serve pages, the oldest first."""
    return psutil.Process(dashboard.process.pid).children()


def count_connections(dashboard: Dashboard, worker: psutil.Process) -> int:
    """Return how many browsers are connected to a worker."""
    port = int(dashboard.url.rpartition(":")[2])
    return sum(bool(each.laddr) and each.laddr.port == port for each in worker.net_connections("tcp"))


async def enter(dashboard: Dashboard, stack: AsyncExitStack, pages: int) -> list[Visitor]:
    """Open some pages at once."""
    opened = (stack.enter_async_context(Visitor.connected(dashboard.url)) for _ in range(pages))
    return list(await asyncio.gather(*opened))


async def is_connected(visitor: Visitor) -> bool:
    """Run the page once more; return whether its connection is still there."""
    try:
        run = await visitor.run(page="leaderboards")
    except ConnectionClosed:
        return False
    assert run.problem is None
    return True


@pytest.mark.slow
def test_visitors_are_spread_evenly_and_outlive_a_worker(dashboard: Dashboard) -> None:
    """A killed worker costs its visitors a reconnect, and the others nothing; another one takes its place.

    Twelve pages may be open, whichever worker has them; those of a killed worker are no longer counted.
    """

    async def visit() -> None:
        killed, kept = list_workers(dashboard)
        async with AsyncExitStack() as stack:
            visitors = await enter(dashboard, stack, 12)
            assert all([await is_connected(visitor) for visitor in visitors])
            assert [count_connections(dashboard, each) for each in (killed, kept)] == [6, 6]
            for _ in range(2):
                with pytest.raises(InvalidStatus, match="403"):
                    await enter(dashboard, stack, 1)
            killed.send_signal(signal.SIGKILL)
            said = f"worker {killed.pid} ended with status -9; another one starts"
            wait_until(lambda: said in dashboard.log.read_text(), "the kill is noticed", WAIT_SECONDS)
            # all that have lost their page are let in again while one worker is gone
            again = await enter(dashboard, stack, 6)
            assert all([await is_connected(visitor) for visitor in again])
            # a client may hear of the end of its connection a moment later
            for _ in range(100):
                connected = [await is_connected(visitor) for visitor in visitors].count(True)
                if connected == 6:
                    break
                await asyncio.sleep(0.05)
            assert connected == 6
            with pytest.raises(InvalidStatus, match="403"):
                await enter(dashboard, stack, 1)
        wait_until(
            lambda: count_ready(dashboard) == 3, "a worker takes the place of the killed one", WAIT_SECONDS
        )
        assert kept in list_workers(dashboard)
        assert len(list_workers(dashboard)) == 2

    asyncio.run(visit())


@pytest.mark.slow
def test_every_request_may_reach_another_worker(dashboard: Dashboard) -> None:
    """Each worker gives the same probes, pages and downloads; no page has a file of one worker only."""
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

    # Streamlit keeps such files in the memory of one process
    assert b"/media/" not in asyncio.run(read_pages())


@pytest.mark.slow
def test_a_signal_stops_all_workers(dashboard: Dashboard, execute: Execute) -> None:
    """The exit status is 0 within seconds, and neither a process nor a database connection is left."""

    async def stop() -> float:
        async with AsyncExitStack() as stack:
            for visitor in await enter(dashboard, stack, VISITORS):
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
def test_a_worker_that_hangs_and_a_parent_that_is_killed(dashboard: Dashboard) -> None:
    """A paused worker gets no connections after some seconds; without their parent the workers end."""
    workers = list_workers(dashboard)
    workers[0].suspend()
    wait_until(
        lambda: all(answers(dashboard) for _ in range(6)), "no visitor meets the paused worker", WAIT_SECONDS
    )
    workers[0].resume()
    dashboard.process.kill()
    dashboard.process.wait(10)
    port = int(dashboard.url.rpartition(":")[2])
    socket.create_server((LOOPBACK, port)).close()
    _, alive = psutil.wait_procs(workers, timeout=stretch(STOP_SECONDS))
    assert not alive


def answers(dashboard: Dashboard) -> bool:
    """Say whether a request is answered."""
    try:
        return dashboard.fetch("/livez")[0] == 200
    except OSError:
        return False


def test_a_taken_port_ends_it_with_one_line(tmp_path: Path) -> None:
    """The line names the address and the settings, and no worker starts."""
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


def test_a_place_is_given_back() -> None:
    """The client and the total have one more page free."""

    async def come_and_go() -> None:
        page_limits = HostPageLimits(max_open=2, max_of_client=1)
        assert await page_limits.enter("alice", is_known=True)
        assert not await page_limits.enter("alice", is_known=True)
        assert await page_limits.enter("bob", is_known=True)
        assert not await page_limits.enter("charlie", is_known=True)
        page_limits.leave("alice", is_known=True)
        assert await page_limits.enter("charlie", is_known=True)

    asyncio.run(come_and_go())


@pytest.mark.slow
def test_a_sign_in_is_known_to_every_worker(
    service: EnhancedDatabaseService, database_url: str, tmp_path: Path
) -> None:
    """Each step uses another connection and so another worker; then both send the files."""
    play_game(service)
    with run_provider(f"http://{LOOPBACK}:{find_free_port()}/oauth2callback") as provider:
        provider.claims = {"sub": "2", "email": "victor@example.com", "email_verified": True}
        settings = provider.settings() | {"DATABASE_URL": database_url, "ENABLE_REDIS_CACHE": "false"}
        port = int(provider.redirect_uri.rpartition(":")[2].partition("/")[0])
        with run_dashboard(tmp_path, port=port, DASHBOARD_WORKERS="2", **settings) as dashboard:
            wait_until(lambda: count_ready(dashboard) == 2, "two workers are ready", WAIT_SECONDS)
            secret = OctKey.import_key(settings["OIDC_COOKIE_SECRET"])
            # as the button of a page makes it, whose worker need not be that of the next request
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
