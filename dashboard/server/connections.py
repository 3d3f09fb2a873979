"""Limits of the WebSockets of pages: number of connections, rate and size of messages.

Owns the limits and enforces them. Messages that arrive too fast are delayed, which also slows their client
down. Connections beyond the limit are refused. A connection ends if it sends frames that no browser sends.
The limits are lower before a sign-in; `dashboard.server.access` decides who has signed in.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from core.metrics.names import Limiter
from core.web.requests import find_client

MESSAGE_BYTES = 1024 * 1024
"""Maximum size of a message, complete or not. A browser sends the values of widgets: a few kilobytes."""

ANONYMOUS_BYTES = 64 * 1024
"""Maximum size of a message before a sign-in."""

PART_BYTES = 4096
"""Maximum bytes of a client that are parsed at once: up to 700 frames, which takes some milliseconds."""

FRAGMENTS = 256
"""Maximum number of frames in one message. A browser splits a large message into a few frames."""

CLOSING_BYTES = 64 * 1024
"""Maximum bytes that a client may still send after the server has sent its close frame."""

TOO_LARGE, NO_BINARY = 1009, 1003
"""WebSocket close codes (RFC 6455, 7.4.1): message too large, message not binary."""


class MessageRate(msgspec.Struct, frozen=True):
    """How many messages a client may send at once, and how many per second after that."""

    burst: int
    per_second: float


PAGES = MessageRate(burst=30, per_second=10)
"""Message rate after a sign-in. A browser sends one message per pause in typing or change of a filter."""

ANONYMOUS = MessageRate(burst=10, per_second=2)
"""Message rate before a sign-in, when the page has only one button."""

CONTROL = MessageRate(burst=30, per_second=10)
"""Rate of pings and pongs. A browser sends a pong every 20 s."""


class TokenBucket:
    """Limits a message rate with the token bucket algorithm. Use it in one thread only."""

    def __init__(self, rate: MessageRate, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._tokens = float(rate.burst)
        self._counted_at = clock()

    def take(self) -> float:
        """Count a message. Return by how many seconds the caller must delay it."""
        now = self._clock()
        gained = (now - self._counted_at) * self._rate.per_second
        self._tokens = min(self._rate.burst, self._tokens + gained) - 1
        self._counted_at = now
        return max(0.0, -self._tokens / self._rate.per_second)


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket with limits: of the bytes parsed at once, of control frames, and of fragments."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unread = b""
        self._closing_bytes = 0
        self._control = TokenBucket(CONTROL)

    def data_received(self, data: bytes) -> None:
        """Parse the received bytes, and stop when a message is complete and waits for the application."""
        if self.close_sent:
            self._closing_bytes += len(data)
            if self._closing_bytes > CLOSING_BYTES:
                self.transport.abort()
                return
        self._unread += data
        self._parse()

    async def receive(self) -> Any:
        """Return the next message. Then parse the bytes that the client sent after this message."""
        message = await super().receive()
        self._parse()
        return message

    def _parse(self) -> None:
        while self._unread and not self.read_paused and not self.transport.is_closing():
            part, self._unread = self._unread[:PART_BYTES], self._unread[PART_BYTES:]
            super().data_received(part)

    def handle_ping(self) -> None:
        """Answer a ping. Too many pings end the connection."""
        if self._admit_control():
            super().handle_ping()

    def handle_pong(self, event: Any) -> None:
        """Accept a pong. Too many pongs end the connection."""
        if self._admit_control():
            super().handle_pong(event)

    def handle_cont(self, event: Any) -> None:
        """Add a frame to a message. Too many frames end the connection.

        The frames are counted because empty frames do not add to the size of the message.
        """
        if len(self.frames) >= FRAGMENTS:
            self.transport.abort()
            return
        super().handle_cont(event)

    def _admit_control(self) -> bool:
        if self._control.take() > 0:
            self.transport.abort()
            return False
        return True


class PageLimits(Protocol):
    """Counts the open pages of this host. `HostPageLimits` and `ParentPageLimits` implement it."""

    async def enter(self, client: str, *, is_known: bool) -> bool:
        """Count one more page and return True. Return False if a limit is reached."""

    def leave(self, client: str, *, is_known: bool) -> None:
        """Subtract one page from the count."""


class PageConnections:
    """ASGI middleware that limits WebSockets.

    `is_known` returns whether the client of a connection has signed in, or needs no sign-in.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        page_limits: PageLimits,
        is_known: Callable[[Scope], bool],
        count: Callable[[Limiter, bool], None],
    ) -> None:
        self._app = app
        self._page_limits = page_limits
        self._is_known = is_known
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on. Refuse a WebSocket if too many are open."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        client, is_known = find_client(scope), self._is_known(scope)
        is_full = not await self._page_limits.enter(client, is_known=is_known)
        self._count("connections", is_full)
        if is_full:
            # close before accepting the connection: the server then answers with status 403
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            bounded = _BoundedMessages(receive, send, is_known=is_known, count=self._count)
            await self._app(scope, bounded.receive, bounded.send)
        finally:
            self._page_limits.leave(client, is_known=is_known)


class _BoundedMessages:
    """Passes the messages of one connection on at a limited rate.

    While a message is delayed, the socket of its connection is not read.
    """

    def __init__(
        self, receive: Receive, send: Send, *, is_known: bool, count: Callable[[Limiter, bool], None]
    ) -> None:
        self._receive = receive
        self._send = send
        self._bucket = TokenBucket(PAGES if is_known else ANONYMOUS)
        self._max_bytes = MESSAGE_BYTES if is_known else ANONYMOUS_BYTES
        self._count = count
        self._is_closed = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "websocket.receive":
            return message
        seconds = self._bucket.take()
        self._count("messages", seconds > 0)
        data = message.get("bytes")
        if data is None:
            # end the connection: Streamlit would log a traceback for a text message
            return await self._close(NO_BINARY)
        if len(data) > self._max_bytes:
            return await self._close(TOO_LARGE)
        if seconds > 0:
            await asyncio.sleep(seconds)
        return message

    async def send(self, message: Message) -> None:
        if not self._is_closed:
            await self._send(message)

    async def _close(self, code: int) -> Message:
        await self.send({"type": "websocket.close", "code": code})
        self._is_closed = True
        return {"type": "websocket.disconnect", "code": code}
