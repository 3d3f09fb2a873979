"""uvicorn's HTTP protocol with a deadline for every wait for a client.

Owns the deadlines that uvicorn lacks: it disconnects a client that sends its request byte by byte, or does
not read the answer. It also limits how many connections may wait for a request or for their TLS handshake at
the same time, so that silent clients never use up the open files of the process. The deadline of a scrape,
after which a slow collector counts as failed, is in `exporter.exposition`.
"""

import asyncio
import errno
import logging
from typing import Any
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

logger = logging.getLogger(__name__)

# From the first byte of a request, or from the connection, to the end of the header; normally milliseconds.
HEADER_SECONDS = 5.0
# From the header to the end of the answer: longer than the longest scrape.
RESPONSE_SECONDS = 90.0
# Connections without a request, also those between two requests. Each needs one open file, and the smallest
# usual limit is 256. A browser opens six, and opens them again when it needs them.
MOST_WAITING = 100
# Connections whose TLS handshake is not complete; a client needs two round trips. Each has 256 kB of buffers.
MOST_HANDSHAKES = 50
# The length of the system's queue of new connections (backlog), for asyncio and for uvloop. An event loop
# accepts as many, and some more, before this module can count the first.
FEW_AHEAD, MANY_AHEAD = 16, 64
# When no open file is left, asyncio would log it for every connection; this is the least time between two
# lines.
REPORT_SECONDS = 60.0

# the connections of each server that wait for a request, the oldest first
_waiting_by_server: WeakKeyDictionary[ServerState, dict["BoundedProtocol", None]] = WeakKeyDictionary()


class BoundedProtocol(H11Protocol):
    """One connection of a client; between two requests uvicorn's own keep-alive timeout ends it."""

    _timer: asyncio.TimerHandle | None = None
    _timed: RequestResponseCycle | None = None
    """The answer that the timer limits; None while it limits a request."""

    _is_handed_over = False
    """Whether the connection has become a WebSocket, which has deadlines of its own."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Wait for the first request."""
        super().connection_made(transport)
        self._waiting = _waiting_by_server.setdefault(self.server_state, {})
        self._arm(HEADER_SECONDS)
        self._begin_waiting()

    def data_received(self, data: bytes) -> None:
        """Receive a part of a request; the deadline is that of the whole request."""
        super().data_received(data)
        if self._is_handed_over:
            return
        if not self._time_answer() and (self._timer is None or self._timed is not None):
            self._timed = None
            self._arm(HEADER_SECONDS)

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Hand the connection over to the WebSocket protocol, which has limits of its own."""
        self._is_handed_over = True
        self._disarm()
        self._waiting.pop(self, None)
        super().handle_websocket_upgrade(event)

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it has already arrived."""
        self._disarm()
        self._begin_waiting()
        super().on_response_complete()
        self._time_answer()

    def _time_answer(self) -> bool:
        """Start the timer of a new answer; say whether there is an unfinished one."""
        # uvicorn sets `cycle` to None before the first request, against its own annotation
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            return False
        if cycle is not self._timed:
            self._timed = cycle
            self._arm(RESPONSE_SECONDS)
            self._waiting.pop(self, None)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._disarm()
        self._waiting.pop(self, None)
        super().connection_lost(exc)

    def _begin_waiting(self) -> None:
        """Add this connection to those without a request; if there are too many, disconnect the oldest."""
        self._waiting[self] = None
        if len(self._waiting) > MOST_WAITING:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.transport.abort()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._expire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        # `close` would wait until the client has read everything
        self.transport.abort()


class ImpatientLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers give a client as long for the TLS handshake as for a header.

    When there are too many handshakes, the oldest is disconnected.
    """

    _reported_at = float("-inf")

    def __init__(self) -> None:
        super().__init__()
        self._handshakes: dict[asyncio.Future[None], asyncio.Transport] = {}

    async def create_server(self, *args: Any, ssl: Any = None, **options: Any) -> Any:
        """Listen with a timeout for the TLS handshake: uvicorn has no option, and asyncio waits a minute."""
        if ssl is not None:
            options.setdefault("ssl_handshake_timeout", HEADER_SECONDS)
        return await super().create_server(*args, ssl=ssl, **options)

    def _make_ssl_transport(
        self, rawsock: Any, protocol: Any, sslcontext: Any, waiter: Any = None, **options: Any
    ) -> Any:
        """Begin a handshake and count it until `waiter` is done; asyncio has no public hook for this."""
        transport = super()._make_ssl_transport(rawsock, protocol, sslcontext, waiter, **options)  # type: ignore[misc]
        if options.get("server_side"):
            self._handshakes[waiter] = transport
            waiter.add_done_callback(lambda ended: self._handshakes.pop(ended, None))
            if len(self._handshakes) > MOST_HANDSHAKES:
                self._handshakes.pop(next(iter(self._handshakes))).abort()
        return transport

    def call_exception_handler(self, context: Any) -> None:
        """Report an error; one that means "no open file is left" at most once in REPORT_SECONDS."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in {errno.EMFILE, errno.ENFILE}:
            super().call_exception_handler(context)
        elif self.time() - self._reported_at > REPORT_SECONDS:
            self._reported_at = self.time()
            logger.error("connections have to wait: %s", error.strerror)


LOOP = f"{ImpatientLoop.__module__}:{ImpatientLoop.__qualname__}"
"""The name of the loop's class, as uvicorn's option takes it."""


def protocol_options() -> dict[str, Any]:
    """Return uvicorn's options that make it use this protocol."""
    return {"http": BoundedProtocol, "timeout_keep_alive": round(HEADER_SECONDS)}
