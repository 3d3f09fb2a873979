"""uvicorn's HTTP protocol with an end to every wait for a client.

Owns the deadlines that uvicorn does not have: a client that sends its request byte by byte, or does not
read the answer, is disconnected instead of being kept forever. The deadline of a scrape, after which a slow
collector counts as failed, is in `exporter.exposition`.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

# From the first byte, or the connecting, to the end of the header; a scraper takes milliseconds.
HEADER_SECONDS = 5.0
# From the header to the end of the answer: longer than the longest scrape.
RESPONSE_SECONDS = 90.0


class BoundedProtocol(H11Protocol):
    """One connection of a client; idle ones between two requests are ended by uvicorn itself."""

    _timer: asyncio.TimerHandle | None = None
    _timed: RequestResponseCycle | None = None
    """The answer that the timer is for; None while it is for a request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Wait for the first request."""
        super().connection_made(transport)
        self._arm(HEADER_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request; the deadline is that of the whole."""
        super().data_received(data)
        if not self._time_answer() and (self._timer is None or self._timed is not None):
            self._timed = None
            self._arm(HEADER_SECONDS)

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it is there already."""
        self._disarm()
        super().on_response_complete()
        self._time_answer()

    def _time_answer(self) -> bool:
        """Say whether an answer is under way; each has a deadline of its own."""
        # uvicorn sets it to None before the first request, against its own annotation
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            return False
        if cycle is not self._timed:
            self._timed = cycle
            self._arm(RESPONSE_SECONDS)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._disarm()
        super().connection_lost(exc)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._expire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        # not close, which waits until all that was written has been read
        self.transport.abort()


def protocol_options() -> dict[str, Any]:
    """Return uvicorn's options that make it use this protocol."""
    return {"http": BoundedProtocol, "ws": "none", "timeout_keep_alive": round(HEADER_SECONDS)}
