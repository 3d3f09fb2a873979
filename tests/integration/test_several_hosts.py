"""Two dashboard hosts behind a real HAProxy with the configuration `containers/haproxy.cfg`."""

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from core import EnhancedDatabaseService
from core.settings.texts import LOOPBACK
from core.stack.ports import find_free_port
from tests.bench.dashboard.visitor import Visitor
from tests.dashboard_process import Dashboard, run_dashboard
from tests.game import play_game

CONFIGURATION = Path(__file__).parents[2] / "containers" / "haproxy.cfg"
WAIT_SECONDS = 60.0
FILE = "/download/leaderboard.csv?category=daily_returns&day=2013-03-01"


class Site(NamedTuple):
    """Two dashboards and the URL of the proxy in front of them."""

    url: str
    hosts: tuple[Dashboard, Dashboard]


@contextmanager
def run_haproxy(program: str, folder: Path, hosts: tuple[Dashboard, Dashboard]) -> Iterator[str]:
    """Run HAProxy in front of two dashboards and yield its URL."""
    listen = f"{LOOPBACK}:{find_free_port()}"
    addresses = {f"DASHBOARD_{n}": host.url.removeprefix("http://") for n, host in enumerate(hosts, 1)}
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-db", "-f", str(CONFIGURATION)],
            env={**os.environ, "LISTEN": listen, **addresses},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_answered(f"http://{listen}/livez", process)
        yield f"http://{listen}"
    finally:
        process.kill()
        process.wait()


def wait_until_answered(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a request returns 200; fail if HAProxy ends or takes too long."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            if httpx2.get(url).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        assert process.poll() is None, "HAProxy has ended; see its log"
        assert time.monotonic() < deadline, f"{url} does not answer"
        time.sleep(0.05)


@pytest.fixture(params=["proxy"])
def site(
    request: pytest.FixtureRequest, service: EnhancedDatabaseService, database_url: str, tmp_path: Path
) -> Iterator[Site]:
    """Yield two dashboards on one database behind a proxy; the parameter is the value of DASHBOARD_BEHIND."""
    program = shutil.which("haproxy")
    if program is None:
        pytest.skip("haproxy is not installed; the Debian package haproxy has it")
    play_game(service)
    settings = {
        "DATABASE_URL": database_url,
        "ENABLE_REDIS_CACHE": "false",
        "DASHBOARD_BEHIND": request.param,
        "RATE_LIMIT_DOWNLOADS": "3",
    }
    with ExitStack() as stack:
        one, two = (stack.enter_context(run_dashboard(tmp_path, port=None, **settings)) for _ in range(2))
        url = stack.enter_context(run_haproxy(program, tmp_path, (one, two)))
        yield Site(url, (one, two))


@pytest.mark.slow
def test_visitors_of_a_killed_host_reconnect(site: Site) -> None:
    """Three of six visitors lose their host and reconnect to the other host; new requests succeed."""

    async def visit() -> None:
        async with AsyncExitStack() as stack:
            visitors = [await stack.enter_async_context(Visitor.connected(site.url)) for _ in range(6)]
            for visitor in visitors:
                assert (await visitor.run(page="leaderboards")).problem is None
            site.hosts[0].process.kill()
            site.hosts[0].process.wait(10)
            lost = 0
            for visitor in visitors:
                try:
                    await visitor.run(page="leaderboards")
                except ConnectionClosed:
                    lost += 1
                    again = await stack.enter_async_context(Visitor.connected(site.url))
                    assert (await again.run(page="leaderboards")).problem is None
            assert lost == 3

    asyncio.run(visit())
    for _ in range(4):
        assert httpx2.get(f"{site.url}/").status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("site", ["loopback"], indirect=True)
def test_a_foreign_host_name_is_refused(site: Site) -> None:
    """A foreign Host header, as in DNS rebinding, is refused: HTTP with 421, WebSocket with 403."""
    port = int(site.url.rpartition(":")[2])
    own, foreign = f"localhost:{port}", f"evil.example:{port}"

    async def open_page(name: str) -> None:
        url = f"ws://{name}/_stcore/stream"
        async with connect(url, host=LOOPBACK, port=port, origin=Origin(f"http://{name}")):
            pass

    for path in ("/", FILE):
        assert httpx2.get(f"{site.url}{path}", headers={"Host": own}).status_code == 200
        assert httpx2.get(f"{site.url}{path}", headers={"Host": foreign}).status_code == 421
    asyncio.run(open_page(own))
    with pytest.raises(InvalidStatus, match="403"):
        asyncio.run(open_page(foreign))


@pytest.mark.slow
@pytest.mark.parametrize("site", ["proxy", "loopback"], indirect=True)
def test_the_client_address_comes_from_the_proxy(site: Site) -> None:
    """The rate limit uses the address that HAProxy reports and ignores headers that the client sends."""
    with httpx2.Client(headers={"X-Forwarded-For": "192.0.2.9", "X-Forwarded-Proto": "https"}) as browser:
        first = browser.get(f"{site.url}/")
        [(name, value)] = browser.cookies.items()
        assert name == "ECHO_HOST"
        assert value in {"one", "two"}
        assert "Strict-Transport-Security" not in first.headers
        statuses = [
            browser.get(f"{site.url}{FILE}", headers={"X-Forwarded-For": f"192.0.2.{n}"}).status_code
            for n in range(4)
        ]
    assert statuses == [200, 200, 200, 429]
    # a client with another address, on the same host
    transport = httpx2.HTTPTransport(local_address="127.0.0.2")
    with httpx2.Client(transport=transport, cookies={name: value}) as another:
        assert another.get(f"{site.url}{FILE}").status_code == 200
