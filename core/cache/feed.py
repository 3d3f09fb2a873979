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
from typing import Any

import redis

from core.cache.near import NearTier

logger = logging.getLogger(__name__)

# A dead feed is noticed after at most two of these, and half a second of grace.
HEARTBEAT_SECONDS = 0.5
SILENCE_SECONDS = 1.5
RECONNECT_SECONDS = 0.5
STOP_SECONDS = 2.0


class InvalidationFeed:
    """Keeps a near tier coherent with Redis until it is closed."""

    def __init__(
        self, connect: Callable[[], Any], near: NearTier, *, prefix: str, families: Sequence[str]
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
            connection = None
            try:
                connection = self._connect()
                self._listen(connection)
            except Exception as error:  # the edge of a loop; an answer that is no protocol raises anything
                if not self._has_failed:
                    logger.info("the near cache is shut, its feed ended: %s", type(error).__name__)
                self._has_failed = True
            finally:
                self._near.shut()
                if connection is not None:
                    connection.disconnect()
            self._stopping.wait(RECONNECT_SECONDS)

    def _connect(self) -> Any:
        # redis-py annotates neither the connection nor its parser
        connection = self._open()
        connection.connect()
        connection._parser.set_invalidation_push_handler(self._hear)  # noqa: SLF001  # redis-py has no public way
        arguments: list[str] = []
        for family in self._families:
            arguments += ("PREFIX", family)
        connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", *arguments)
        if connection.read_response() != b"OK":
            raise redis.InvalidResponse("tracking was not confirmed")
        return connection

    def _listen(self, connection: Any) -> None:
        """Read until the feed ends; PONG after every heartbeat proves that nothing is pending."""
        self._near.open()
        self._has_failed = False
        heard_at = pinged_at = time.monotonic()
        connection.send_command("PING")
        while not self._stopping.is_set():
            try:
                connection.read_response(
                    push_request=True, timeout=HEARTBEAT_SECONDS, disconnect_on_error=False
                )
                heard_at = time.monotonic()
            except redis.TimeoutError:
                pass
            now = time.monotonic()
            if now - heard_at > SILENCE_SECONDS:
                raise redis.TimeoutError("no heartbeat")
            if now - pinged_at >= HEARTBEAT_SECONDS:
                pinged_at = now
                connection.send_command("PING")

    def _hear(self, message: Any) -> Any:
        keys = message[1] if len(message) > 1 else None
        if keys is None:
            self._near.clear()
        else:
            skipped = len(self._prefix)
            self._near.invalidate(key.decode("utf-8", "replace")[skipped:] for key in keys)
        return message
