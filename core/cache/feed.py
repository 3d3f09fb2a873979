"""The invalidation feed: Redis reports every key that any process changes.

Owns one connection with CLIENT TRACKING in broadcast mode (RESP3), and the thread that reads from it. The
near cache is open only while this connection answers and its server accepts invalidations: a feed that ends,
is refused or is silent for too long shuts the near cache.

Source: Redis documentation, "Client-side caching in Redis", broadcasting mode.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from core.backoff import Backoff
from core.cache.capability import (
    CapabilityCheck,
    FeedRefused,
    Step,
    describe,
    encode_subscription,
    subscribe,
)
from core.cache.connection import ErrorReply, Push, RedisConnection
from core.cache.near import NearCache

logger = logging.getLogger(__name__)

# The feed notices within this time that its server has begun to refuse invalidations. A writer whose
# invalidation was refused waits a little longer (`core.cache.guard.TRUST_SECONDS`).
HEARTBEAT_SECONDS = 0.2
# Longest pause between two attempts to subscribe. It can be long, because a server may refuse feeds
# permanently, and a near cache that stays shut for this long is not an outage.
LONGEST_PAUSE_SECONDS = 3.0
# A feed that receives nothing for this time counts as dead.
SILENCE_SECONDS = 1.5
STOP_SECONDS = 2.0
# A busy server sends thousands of pushes a second. Waking the thread for each push slows the other threads
# more than reading the push, so after one push the thread waits this long and then reads all that arrived.
GATHER_SECONDS = 0.002


class InvalidationFeed:
    """Keeps a near cache coherent with Redis until it is closed."""

    def __init__(
        self,
        connect: Callable[[], RedisConnection],
        near: NearCache,
        *,
        prefix: str,
        capability: CapabilityCheck,
        is_possible: bool = True,
    ) -> None:
        """Open no connection yet; `is_possible` is False if REDIS_URL sets a protocol without pushes."""
        self._connect = connect
        self._is_possible = is_possible
        self._near = near
        self._prefix_length = len(prefix)
        self._capability = capability
        self._subscription = encode_subscription(prefix)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._reason: str | None = None

    def start(self) -> None:
        """Start the thread, which connects and subscribes in the background."""
        if not self._is_possible:
            logger.warning("near cache off: REDIS_URL has protocol=2, and only RESP3 reports changes")
            return
        self._thread = threading.Thread(target=self._run, name="invalidation-feed", daemon=True)
        self._thread.start()

    @property
    def reason(self) -> str | None:
        """Why the near cache is shut: the message of the server or the system; None while it is open."""
        return self._reason

    def close(self) -> None:
        """End the thread and its connection."""
        self._stopping.set()
        self._near.shut()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        backoff = Backoff(longest_seconds=LONGEST_PAUSE_SECONDS)
        while not self._stopping.is_set():
            connection = None
            try:
                connection = self._connect()
                subscribe(connection, self._subscription)
                self._capability.join_epoch(connection)
                self._listen(connection, backoff)
            except Exception as error:
                # every error is caught here: without this thread the near cache would never open again
                self._note_end(error)
            finally:
                self._near.shut()
                if connection is not None:
                    connection.close()
            self._stopping.wait(backoff.next_seconds())

    def _note_end(self, error: Exception) -> None:
        reason = describe(error) or type(error).__name__
        if reason != self._reason:
            # only INFO for an unreachable server, because the guard logs it as a warning
            is_refused = isinstance(error, (ErrorReply, FeedRefused))
            logger.log(logging.WARNING if is_refused else logging.INFO, "near cache off: %s", reason)
        self._reason = reason

    def _listen(self, connection: RedisConnection, backoff: Backoff) -> None:
        """Read pushes and heartbeat replies until the feed ends.

        The server sends the reply to a heartbeat after all pushes for earlier changes.
        """
        connection.set_timeout(HEARTBEAT_SECONDS)
        heartbeat = _Heartbeat(connection, self._capability, self._near.clear)
        heard_at = time.monotonic()
        while not self._stopping.is_set():
            try:
                message = connection.read()
                heard_at = time.monotonic()
                if isinstance(message, Push):
                    self._apply(message)
                    if not connection.has_unread:
                        connection.pause(GATHER_SECONDS)
                elif heartbeat.take_reply(message):
                    # every change up to now has been reported, and the server accepts invalidations
                    self._note_answer(backoff)
            except redis.TimeoutError:
                pass
            now = time.monotonic()
            if now - heard_at > SILENCE_SECONDS:
                raise redis.TimeoutError(f"no heartbeat within {SILENCE_SECONDS:g} s")
            heartbeat.send_when_due(now)

    def _note_answer(self, backoff: Backoff) -> None:
        if not self._near.is_live:
            self._near.open()
            self._reason = None
            backoff.reset()

    def _apply(self, message: Push) -> None:
        if message[:1] != [b"invalidate"]:
            return
        keys = message[1] if len(message) > 1 else None
        if keys is None:
            self._near.clear()
        else:
            skipped = self._prefix_length
            self._near.invalidate([key.decode("utf-8", "replace")[skipped:] for key in keys])


class _Heartbeat:
    """Asks the server of a feed repeatedly whether the server accepts invalidations."""

    def __init__(
        self, connection: RedisConnection, capability: CapabilityCheck, on_timeline: Callable[[], None]
    ) -> None:
        """Send the first heartbeat; `on_timeline` is called when the timeline of the database has changed."""
        self._connection = connection
        self._capability = capability
        self._on_timeline = on_timeline
        self._steps: list[Step] = []
        self._replies: list[Any] = []
        self._sent_at = float("-inf")
        self.send_when_due(time.monotonic())

    def send_when_due(self, now: float) -> None:
        """Send a heartbeat when one is due and the last one has been answered."""
        if self._steps or now - self._sent_at < HEARTBEAT_SECONDS:
            return
        self._steps = self._capability.list_recheck(self._connection.protocol, self._connection.epoch)
        self._sent_at = now
        self._connection.send(b"".join(step.command for step in self._steps))

    def take_reply(self, reply: Any) -> bool:
        """Take one reply; return whether it is the last one of a heartbeat. Raises `ErrorReply`."""
        self._replies.append(reply)
        if len(self._replies) < len(self._steps):
            return False
        if self._capability.judge_recheck(self._connection, self._steps, self._replies):
            self._on_timeline()
        self._steps, self._replies = [], []
        return True
