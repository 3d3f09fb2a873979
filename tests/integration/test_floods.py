"""Tests of the dashboard under floods: clients that send more or larger messages than a page does."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx2
import psutil
import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from core.settings.texts import LOOPBACK
from core.stack.ports import find_free_port
from core.web.client_deadlines import HEADER_SECONDS
from dashboard.server.connections import ANONYMOUS_BYTES, MESSAGE_BYTES
from tests.dashboard_process import Dashboard, run_dashboard
from tests.oidc_provider import CLIENT_ID
from tests.patience import stretch

CLIENTS = 4
PER_SECOND = 440
SECONDS = 5.0
PROBE_SECONDS = 1.0
"""Bound of a probe during a flood. Without the dashboard's limits a probe took 12 to 18 s."""

MEGABYTE = 1024 * 1024
NOWHERE = f"postgresql://nobody@{LOOPBACK}:1/nothing"


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """Yield a dashboard that requires a sign-in. No test signs in."""
    port = find_free_port()
    url = f"http://{LOOPBACK}:{port}"
    folder: Path = tmp_path_factory.mktemp("floods")
    with run_dashboard(
        folder,
        port=port,
        DATABASE_URL=NOWHERE,
        ENABLE_REDIS_CACHE="false",
        OIDC_CLIENT_ID=CLIENT_ID,
        OIDC_CLIENT_SECRET="nobody signs in here",
        OIDC_METADATA_URL=f"http://{LOOPBACK}:1/openid",
        OIDC_REDIRECT_URI=f"{url}/oauth2callback",
        OIDC_COOKIE_SECRET="c" * 32,
    ) as started:
        yield started


def open_websocket(dashboard: Dashboard) -> connect:
    """Return a WebSocket connection like that of a page."""
    return connect(
        f"{dashboard.url.replace('http', 'ws', 1)}/_stcore/stream",
        origin=dashboard.url,  # type: ignore[arg-type]  # a text by another name
        max_size=None,
        ping_interval=None,
        compression=None,
        close_timeout=1,
    )


async def measure_probe(dashboard: Dashboard, flood: Callable[[], Awaitable[object]]) -> float:
    """Request `/livez` repeatedly during the flood. Return the longest time of a response."""
    slowest, flooding = 0.0, asyncio.ensure_future(flood())
    async with httpx2.AsyncClient(timeout=60) as client:
        while not flooding.done():
            started = time.monotonic()
            assert (await client.get(f"{dashboard.url}/livez")).status_code == 200
            slowest = max(slowest, time.monotonic() - started)
            await asyncio.sleep(0.02)
    await flooding
    return slowest


async def send_messages(connection: ClientConnection) -> None:
    """Send `PER_SECOND` messages a second that ask to run the page."""
    message = BackMsg()
    message.rerun_script.query_string = ""
    data, until = message.SerializeToString(), time.monotonic() + SECONDS
    while time.monotonic() < until:
        for _ in range(PER_SECOND // 50):
            await connection.send(data)
        await asyncio.sleep(0.02)


async def send_frames(connection: ClientConnection, opcode: Opcode, data: bytes, *, fin: bool) -> None:
    """Send small frames as fast as the server reads them."""
    frame = Frame(opcode, data, fin).serialize(mask=True) * 5_000
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and not connection.transport.is_closing():
        if not connection.transport.get_write_buffer_size():
            connection.transport.write(frame)
        await asyncio.sleep(0.005)


async def flood(dashboard: Dashboard, send: Callable[[ClientConnection], Awaitable[None]]) -> None:
    """Let `CLIENTS` clients send at once. A client that the server disconnects or delays is no error."""

    async def flood_once() -> None:
        try:
            async with open_websocket(dashboard) as connection:
                receiving = asyncio.ensure_future(_receive(connection))
                async with asyncio.timeout(SECONDS + 1):
                    await send(connection)
                receiving.cancel()
                connection.transport.abort()
        except (ConnectionClosed, TimeoutError, OSError):
            pass

    await asyncio.gather(*(flood_once() for _ in range(CLIENTS)))


async def _receive(connection: ClientConnection) -> None:
    try:
        async for _ in connection:
            pass
    except ConnectionClosed:
        pass


@pytest.mark.parametrize(
    "send",
    [
        send_messages,
        lambda connection: send_frames(connection, Opcode.BINARY, b"", fin=True),
        lambda connection: send_frames(connection, Opcode.PING, b"", fin=True),
        lambda connection: send_frames(connection, Opcode.PONG, b"", fin=True),
    ],
    ids=["messages", "small frames", "pings", "pongs"],
)
def test_a_flood_before_any_sign_in_keeps_nobody_waiting(
    dashboard: Dashboard, send: Callable[[ClientConnection], Awaitable[None]]
) -> None:
    """While four clients without a sign-in send without a pause, a probe is answered within 1 s."""
    slowest = asyncio.run(measure_probe(dashboard, lambda: flood(dashboard, send)))
    assert slowest < stretch(PROBE_SECONDS)


def test_unfinished_messages_take_no_memory(dashboard: Dashboard) -> None:
    """Unfinished messages over the limit end the connection, and take less than 50 MB of memory."""

    async def send_beginnings() -> None:
        for _ in range(3):
            async with open_websocket(dashboard) as connection:
                for opcode in (Opcode.BINARY, Opcode.CONT):
                    frame = Frame(opcode, os.urandom(MESSAGE_BYTES - 1), fin=False).serialize(mask=True)
                    connection.transport.write(frame)
                await asyncio.wait_for(connection.wait_closed(), stretch(20))
                assert connection.close_code in {1009, 1006}

    process = psutil.Process(dashboard.process.pid)
    before = process.memory_info().rss
    asyncio.run(send_beginnings())
    assert process.memory_info().rss - before < 50 * MEGABYTE


@pytest.mark.parametrize(("message", "code"), [(b"a" * (ANONYMOUS_BYTES + 1), 1009), ("a text", 1003)])
def test_an_unexpected_message_ends_the_connection(
    dashboard: Dashboard, message: bytes | str, code: int
) -> None:
    """A too large message or a text frame ends the connection, without a traceback in the log."""

    async def send_one() -> int | None:
        async with open_websocket(dashboard) as connection:
            await connection.send(message)
            await asyncio.wait_for(_receive(connection), stretch(20))
            return connection.close_code

    assert asyncio.run(send_one()) == code
    assert "text frames are not supported" not in dashboard.log.read_text()


def test_a_client_can_open_a_limited_number_of_pages(tmp_path: Path) -> None:
    """With a limit of two a client's third page is refused, until one of its pages is closed."""

    async def visit(dashboard: Dashboard) -> None:
        first = await open_websocket(dashboard)
        async with open_websocket(dashboard):
            with pytest.raises(InvalidStatus, match="403"):
                await open_websocket(dashboard)
        await first.close()
        deadline = time.monotonic() + stretch(10)
        while True:
            try:
                async with open_websocket(dashboard):
                    return
            except InvalidStatus:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)

    with run_dashboard(
        tmp_path,
        DATABASE_URL=NOWHERE,
        ENABLE_REDIS_CACHE="false",
        DASHBOARD_CONNECTIONS_PER_CLIENT="2",
    ) as dashboard:
        asyncio.run(visit(dashboard))


def test_a_page_that_is_only_read_stays_connected(dashboard: Dashboard) -> None:
    """A WebSocket on which the client sends nothing stays open after the deadline of a request's header."""

    async def read() -> None:
        async with open_websocket(dashboard) as page:
            await asyncio.sleep(HEADER_SECONDS + 1)
            await (await page.ping())

    asyncio.run(read())
