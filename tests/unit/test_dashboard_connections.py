"""Limits of a page: the rate of its messages, and the number of page connections of a client."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from core.web.requests import find_client
from dashboard.server.connections import PAGES, MessageRate, PageConnections, TokenBucket
from dashboard.server.page_limits import HostPageLimits


def test_messages_beyond_the_burst_wait_their_turn() -> None:
    """After a burst each message waits 0.1 s longer than the one before; a pause allows a new burst."""
    now = [100.0]
    bucket = TokenBucket(MessageRate(burst=3, per_second=10), clock=lambda: now[0])
    assert [bucket.take() for _ in range(5)] == pytest.approx([0, 0, 0, 0.1, 0.2])
    now[0] += 0.2
    assert bucket.take() == pytest.approx(0.1)
    now[0] += 60
    assert [bucket.take() for _ in range(4)] == pytest.approx([0, 0, 0, 0.1])


def test_fast_typing_is_not_delayed() -> None:
    """A client that sends eight messages a second for ten seconds is not delayed."""
    now = [0.0]
    bucket = TokenBucket(PAGES, clock=lambda: now[0])
    for _ in range(80):
        now[0] += 1 / 8
        assert bucket.take() == 0


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("a socket", "a socket"),
    ],
)
def test_a_client_is_an_address_or_a_network(address: str, client: str) -> None:
    """A client is an IPv4 address or an IPv6 /64 network, because one machine can use a whole /64."""
    assert find_client({"type": "http", "client": (address, 1)}) == client
    assert find_client({"type": "http"}) == "unknown"


class OpenConnections:
    """Connections to `PageConnections` that stay open until the event loop ends."""

    def __init__(self, *, most: int, most_of_client: int) -> None:
        self.counted: list[bool] = []
        self._app = PageConnections(
            self._stay,
            page_limits=HostPageLimits(max_open=most, max_of_client=most_of_client),
            is_known=lambda scope: bool(scope["known"]),
            count=lambda _, is_rejected: self.counted.append(is_rejected),
        )
        self._closing = asyncio.Event()

    async def _stay(self, _: Scope, __: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await self._closing.wait()

    async def connect(self, client: str, *, known: bool) -> bool:
        """Open a connection; return whether the connection was accepted."""
        answered: asyncio.Queue[Message] = asyncio.Queue()
        scope = {"type": "websocket", "client": (client, 1), "known": known}
        self._task = asyncio.ensure_future(self._app(scope, answered.get, answered.put))
        return bool((await answered.get())["type"] == "websocket.accept")


def test_clients_that_have_not_signed_in_get_fewer_connections() -> None:
    """Without sign-in a client gets a fifth of its connections; all such clients together get half."""

    async def open_all() -> None:
        opened = OpenConnections(most=6, most_of_client=10)
        assert [await opened.connect("10.0.0.1", known=False) for _ in range(3)] == [True, True, False]
        assert await opened.connect("10.0.0.2", known=False)
        assert not await opened.connect("10.0.0.3", known=False)
        assert [await opened.connect("10.0.0.1", known=True) for _ in range(4)] == [True, True, True, False]
        assert opened.counted.count(True) == 3

    asyncio.run(open_all())
