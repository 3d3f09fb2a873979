"""The invalidation feed: Redis tells which keys changed, whoever changed them.

Owns one connection with CLIENT TRACKING in broadcast mode (RESP3) and the thread that
reads it. The near tier is open only while this connection answers: a feed that ends, or
is silent for two heartbeats, shuts it. Reads no values and changes none.

Source: Redis documentation, "Client-side caching in Redis", broadcasting mode.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

import redis

from core.cache.near import NearTier
from core.cache.wire import Push, Wire, pack

logger = logging.getLogger(__name__)

# A dead feed is noticed after at most two of these, and half a second of grace.
HEARTBEAT_SECONDS = 0.5
SILENCE_SECONDS = 1.5
RECONNECT_SECONDS = 0.5
STOP_SECONDS = 2.0
PING = pack("PING")


class InvalidationFeed:
    """Keeps a near tier coherent with Redis until it is closed."""

    def __init__(
        self, connect: Callable[[], Wire], near: NearTier, *, prefix: str, families: Sequence[str]
    ) -> None:
        self._open = connect
        self._near = near
        self._prefix = prefix
        self._families = [prefix + family for family in families]
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._has_failed = False

    def start(self) -> None:
        """Connect in the background; once more in a forked child, which has no thread of this."""
        # its lock may be held by a thread that the child does not have
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="invalidation-feed", daemon=True)
        self._thread.start()

    @property
    def is_started(self) -> bool:
        """Whether it was started and is not closed."""
        return self._thread is not None and not self._stopping.is_set()

    def close(self) -> None:
        """End the thread and its connection."""
        self._stopping.set()
        self._near.shut()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            wire = None
            try:
                wire = self._open()
                self._subscribe(wire)
                self._listen(wire)
            except Exception as error:  # the edge of a loop; an answer that is no protocol raises anything
                if not self._has_failed:
                    logger.info("the near cache is shut, its feed ended: %s", error)
                self._has_failed = True
            finally:
                self._near.shut()
                if wire is not None:
                    wire.close()
            self._stopping.wait(RECONNECT_SECONDS)

    def _subscribe(self, wire: Wire) -> None:
        arguments: list[str] = []
        for family in self._families:
            arguments += ("PREFIX", family)
        wire.send(pack("CLIENT", "TRACKING", "ON", "BCAST", *arguments))
        if wire.read_reply() != b"OK":
            raise redis.InvalidResponse("tracking was not confirmed")

    def _listen(self, wire: Wire) -> None:
        """Read until the feed ends; PONG after every heartbeat proves that nothing is pending."""
        self._near.open()
        self._has_failed = False
        wire.set_timeout(HEARTBEAT_SECONDS)
        heard_at = pinged_at = time.monotonic()
        wire.send(PING)
        while not self._stopping.is_set():
            try:
                message = wire.read()
                heard_at = time.monotonic()
                if isinstance(message, Push):
                    self._hear(message)
            except redis.TimeoutError:
                pass
            now = time.monotonic()
            if now - heard_at > SILENCE_SECONDS:
                raise redis.TimeoutError("no heartbeat")
            if now - pinged_at >= HEARTBEAT_SECONDS:
                pinged_at = now
                wire.send(PING)

    def _hear(self, message: Push) -> None:
        if message[:1] != [b"invalidate"]:
            return
        keys = message[1] if len(message) > 1 else None
        if keys is None:
            self._near.clear()
        else:
            skipped = len(self._prefix)
            self._near.invalidate([key.decode("utf-8", "replace")[skipped:] for key in keys])
