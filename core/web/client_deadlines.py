"""uvicorn's HTTP protocol, with a deadline for each wait for a client.

Owns the deadlines that uvicorn lacks. A client that sends its request byte by byte, or that does not read the
response, is disconnected. Also limits how many connections may wait for a request or for their TLS handshake
at the same time, so that silent clients cannot use up the open files of the process. The deadline of a scrape
is in `exporter.exposition`.
"""

import asyncio
import errno
import logging
from typing import Any
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

logger = logging.getLogger(__name__)

# Deadline for the header of a request. It starts when the connection is opened, and for later requests when
# their first byte arrives. A header usually takes milliseconds.
HEADER_SECONDS = 5.0
# Deadline for the response, from the end of the header. It is longer than the longest scrape.
RESPONSE_SECONDS = 90.0
# Maximum number of connections that wait for their first or next request. Each connection is an open file of
# the process, and the smallest usual limit of open files is 256. A browser opens six connections, and opens
# a new one if a connection was closed.
MAX_WAITING = 100
# Maximum number of connections whose TLS handshake is not complete. A handshake takes two round trips, and
# each connection has 256 kB of buffers.
MAX_HANDSHAKES = 50
# Length of the operating system's queue of new connections (listen backlog): 16 for asyncio, 64 for uvloop.
# The event loop may accept this many connections, and a few more, before the first of them is counted here.
FEW_AHEAD, MANY_AHEAD = 16, 64
# Minimum time between two log messages that the limit of open files is reached. asyncio would log one message
# for each connection.
REPORT_SECONDS = 60.0

# for each server its connections that wait for a request, the oldest first
_waiting_by_server: WeakKeyDictionary[ServerState, dict["BoundedProtocol", None]] = WeakKeyDictionary()


class BoundedProtocol(H11Protocol):
    """One connection of a client. Between two requests, uvicorn's own keep-alive timeout ends it."""

    _timer: asyncio.TimerHandle | None = None
    _timed: RequestResponseCycle | None = None
    """The response that `_timer` limits. None while `_timer` limits a request."""

    _is_handed_over = False
    """Whether the connection has become a WebSocket, which has its own deadlines."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._waiting = _waiting_by_server.setdefault(self.server_state, {})
        self._arm(HEADER_SECONDS)
        self._begin_waiting()

    def data_received(self, data: bytes) -> None:
        """Receive a part of a request. The first part starts the deadline, and no later part extends it.

        The deadline of the first request of a connection starts earlier: when the connection is opened.
        """
        super().data_received(data)
        if self._is_handed_over:
            return
        if not self._start_response_deadline() and (self._timer is None or self._timed is not None):
            self._timed = None
            self._arm(HEADER_SECONDS)

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Hand the connection over to the WebSocket protocol, which has its own deadlines."""
        self._is_handed_over = True
        self._disarm()
        self._waiting.pop(self, None)
        super().handle_websocket_upgrade(event)

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, if it has not arrived yet."""
        self._disarm()
        self._begin_waiting()
        super().on_response_complete()
        self._start_response_deadline()

    def _start_response_deadline(self) -> bool:
        """Start the deadline of a new response. Return whether a response is unfinished."""
        # `cycle` is None before the first request, although uvicorn annotates it otherwise
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            return False
        if cycle is not self._timed:
            self._timed = cycle
            self._arm(RESPONSE_SECONDS)
            self._waiting.pop(self, None)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadline, because the connection is closed."""
        self._disarm()
        self._waiting.pop(self, None)
        super().connection_lost(exc)

    def _begin_waiting(self) -> None:
        """Count this connection as waiting. If too many connections wait, disconnect the oldest."""
        self._waiting[self] = None
        if len(self._waiting) > MAX_WAITING:
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
        # `close` would wait until the client has read the whole response
        self.transport.abort()


class BoundedLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers limit the duration and the number of TLS handshakes.

    If there are too many handshakes, the oldest is disconnected.
    """

    _reported_at = float("-inf")

    def __init__(self) -> None:
        super().__init__()
        self._handshakes: dict[asyncio.Future[None], asyncio.Transport] = {}

    async def create_server(self, *args: Any, ssl: Any = None, **options: Any) -> Any:
        """Listen with a timeout for the TLS handshake: uvicorn sets none, and asyncio would wait a minute."""
        if ssl is not None:
            options.setdefault("ssl_handshake_timeout", HEADER_SECONDS)
        return await super().create_server(*args, ssl=ssl, **options)

    def _make_ssl_transport(
        self, rawsock: Any, protocol: Any, sslcontext: Any, waiter: Any = None, **options: Any
    ) -> Any:
        """Begin a handshake and count it until `waiter` is done. asyncio has no public hook for this."""
        transport = super()._make_ssl_transport(rawsock, protocol, sslcontext, waiter, **options)  # type: ignore[misc]
        if options.get("server_side"):
            self._handshakes[waiter] = transport
            waiter.add_done_callback(lambda ended: self._handshakes.pop(ended, None))
            if len(self._handshakes) > MAX_HANDSHAKES:
                self._handshakes.pop(next(iter(self._handshakes))).abort()
        return transport

    def call_exception_handler(self, context: Any) -> None:
        """Log an error, but log that the limit of open files is reached at most once in `REPORT_SECONDS`."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in {errno.EMFILE, errno.ENFILE}:
            super().call_exception_handler(context)
        elif self.time() - self._reported_at > REPORT_SECONDS:
            self._reported_at = self.time()
            logger.error("connections have to wait: %s", error.strerror)


LOOP = f"{BoundedLoop.__module__}:{BoundedLoop.__qualname__}"
"""The name of the event loop's class, in the form of uvicorn's option `loop`."""


def protocol_options() -> dict[str, Any]:
    """Return the options of uvicorn that select `BoundedProtocol`."""
    return {"http": BoundedProtocol, "timeout_keep_alive": round(HEADER_SECONDS)}
