"""The invalidation feed: Redis reports every key that any process changes.

Owns one connection with CLIENT TRACKING in broadcast mode (RESP3), and the thread that reads from it. The
near cache serves values only while this connection answers and its server accepts invalidations. If the feed
ends, is refused, or receives nothing for too long, the near cache is emptied and serves nothing.

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
from core.cache.connection import MIN_SECONDS, ErrorReply, Push, RedisConnection
from core.cache.near import NearCache

logger = logging.getLogger(__name__)

# Interval of the heartbeats. A heartbeat notices a server that refuses invalidations. A writer whose
# invalidation was refused waits a little longer than this interval (`core.cache.guard.TRUST_SECONDS`).
HEARTBEAT_SECONDS = 0.2
# Maximum pause between two attempts to subscribe. It may be long: a server may refuse the subscription for
# ever, and without a near cache the values still come from Redis.
MAX_PAUSE_SECONDS = 3.0
# An invalidation feed that receives nothing for this time counts as dead.
SILENCE_SECONDS = 1.5
# A busy server sends thousands of pushes a second. To wake the thread for a push costs the other threads
# more time than to read the push. So after one push the thread waits this long, and then reads all pushes
# that have arrived.
GATHER_SECONDS = 0.002
# How long `close` waits for the thread.
STOP_SECONDS = 2.0


class InvalidationFeed:
    """Keeps the near cache coherent with Redis, until `close` is called."""

    def __init__(
        self,
        connect: Callable[[], RedisConnection],
        near: NearCache,
        *,
        prefix: str,
        capability: CapabilityCheck,
        is_possible: bool = True,
    ) -> None:
        """Open no connection yet. `is_possible` is False if REDIS_URL sets the protocol to RESP2."""
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
        """Why the near cache is shut: a message of the server or the system. None while it is open."""
        return self._reason

    def close(self) -> None:
        """End the thread and its connection, and shut the near cache."""
        self._stopping.set()
        self._near.shut()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        backoff = Backoff(max_seconds=MAX_PAUSE_SECONDS)
        while not self._stopping.is_set():
            connection = None
            try:
                connection = self._connect()
                subscribe(connection, self._subscription)
                self._capability.join_epoch(connection)
                self._listen(connection, backoff)
            except Exception as error:
                # every error is caught here: the near cache would never open again if this thread ended
                self._record_end(error)
            finally:
                self._near.shut()
                if connection is not None:
                    connection.close()
            self._stopping.wait(backoff.next_seconds())

    def _record_end(self, error: Exception) -> None:
        reason = describe(error) or type(error).__name__
        if reason != self._reason:
            # an unreachable server is only logged as INFO, because `RedisGuard` logs a warning about it
            is_refused = isinstance(error, (ErrorReply, FeedRefused))
            logger.log(logging.WARNING if is_refused else logging.INFO, "near cache off: %s", reason)
        self._reason = reason

    def _listen(self, connection: RedisConnection, backoff: Backoff) -> None:
        """Apply pushes to the near cache and send heartbeats, until the feed ends.

        The server sends the reply to a heartbeat after the pushes of all earlier changes.
        """
        heartbeat = _Heartbeat(connection, self._capability, self._near.clear)
        heard_at = time.monotonic()
        while not self._stopping.is_set():
            if not connection.has_unread:
                # pushes must not delay the next heartbeat
                connection.set_timeout(heartbeat.find_wait(time.monotonic()))
            try:
                message = connection.read()
                heard_at = time.monotonic()
                if isinstance(message, Push):
                    self._apply(message)
                    if not connection.has_unread:
                        connection.pause(GATHER_SECONDS)
                elif heartbeat.take_reply(message):
                    # the pushes of all earlier changes have been applied, and the server accepts
                    # invalidations
                    self._record_answer(backoff)
            except redis.TimeoutError:
                pass
            now = time.monotonic()
            if now - heard_at > SILENCE_SECONDS:
                raise redis.TimeoutError(f"no heartbeat within {SILENCE_SECONDS:g} s")
            heartbeat.send_when_due(now)

    def _record_answer(self, backoff: Backoff) -> None:
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
    """Sends heartbeats on a feed's connection: each asks whether the server accepts invalidations."""

    def __init__(
        self, connection: RedisConnection, capability: CapabilityCheck, on_timeline: Callable[[], None]
    ) -> None:
        """Send the first heartbeat. `on_timeline` is called when the timeline of the database has changed."""
        self._connection = connection
        self._capability = capability
        self._on_timeline = on_timeline
        self._steps: list[Step] = []
        self._replies: list[Any] = []
        self._sent_at = float("-inf")
        self.send_when_due(time.monotonic())

    def send_when_due(self, now: float) -> None:
        """Send a heartbeat if one is due and the last one has been answered."""
        if self._steps or now - self._sent_at < HEARTBEAT_SECONDS:
            return
        self._steps = self._capability.list_recheck(self._connection.protocol, self._connection.epoch)
        self._sent_at = now
        self._connection.send(b"".join(step.command for step in self._steps))

    def find_wait(self, now: float) -> float:
        """Return the number of seconds for which the thread may wait before it sends the next heartbeat.

        While a heartbeat is unanswered this is `HEARTBEAT_SECONDS`, because no other one is sent meanwhile.
        """
        due_at = now + HEARTBEAT_SECONDS if self._steps else self._sent_at + HEARTBEAT_SECONDS
        return max(due_at - now, MIN_SECONDS)

    def take_reply(self, reply: Any) -> bool:
        """Take the reply to one command of a heartbeat. Return whether the heartbeat is complete.

        Raises `ErrorReply` if the server does not accept invalidations.
        """
        self._replies.append(reply)
        if len(self._replies) < len(self._steps):
            return False
        if self._capability.check_replies(self._connection, self._steps, self._replies):
            self._on_timeline()
        self._steps, self._replies = [], []
        return True
