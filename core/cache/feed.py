"""The invalidation feed: Redis tells which keys changed, whoever changed them.

Owns one connection with CLIENT TRACKING in broadcast mode (RESP3) and the thread that
reads it. The near tier is open only while this connection answers, and its server can still
invalidate: a feed that ends, is refused or is silent for too long shuts it. Reads no values and
changes none.

Source: Redis documentation, "Client-side caching in Redis", broadcasting mode.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

from core.cache.backoff import Backoff
from core.cache.capability import CapabilityCheck, Step, describe, judge
from core.cache.near import NearTier
from core.cache.wire import ErrorReply, Push, Wire, pack

logger = logging.getLogger(__name__)

# A server that begins to refuse is noticed within one of these: a writer that it refused waits for a
# little longer (`core.cache.guard.TRUST_SECONDS`).
HEARTBEAT_SECONDS = 0.2
# A server that refuses feeds may do so for ever; a near tier that is shut for this long more is no outage.
LONGEST_PAUSE_SECONDS = 3.0
# A dead feed is noticed after this time.
SILENCE_SECONDS = 1.5
STOP_SECONDS = 2.0
PUSH_PROTOCOL = 3


class FeedRefused(redis.RedisError):
    """The server is there and tells of no changes."""


class InvalidationFeed:
    """Keeps a near tier coherent with Redis until it is closed."""

    def __init__(
        self,
        connect: Callable[[], Wire],
        near: NearTier,
        *,
        prefix: str,
        families: Sequence[str],
        capability: CapabilityCheck,
        is_possible: bool = True,
    ) -> None:
        self._open = connect
        self._is_possible = is_possible
        self._near = near
        self._prefix = prefix
        self._capability = capability
        self._subscription = pack_subscription(prefix, families)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._reason: str | None = None

    def start(self) -> None:
        """Connect in the background; once more in a forked child, which has no thread of this.

        Not when it is not possible: `REDIS_URL` asks for a protocol that tells of no changes.
        """
        if not self._is_possible:
            logger.warning("near cache off: REDIS_URL has protocol=2, and only RESP3 tells of changes")
            return
        # its lock may be held by a thread that the child does not have
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="invalidation-feed", daemon=True)
        self._thread.start()

    @property
    def is_started(self) -> bool:
        """Whether it was started and is not closed."""
        return self._thread is not None and not self._stopping.is_set()

    @property
    def reason(self) -> str | None:
        """Why the near tier is shut, in the words of the server or the system; None while it is open."""
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
            wire = None
            try:
                wire = self._open()
                subscribe(wire, self._subscription)
                self._listen(wire, backoff)
            except Exception as error:
                # the edge of a loop: without this thread the near tier would never be used again
                self._note_end(error)
            finally:
                self._near.shut()
                if wire is not None:
                    wire.close()
            self._stopping.wait(backoff.next_seconds())

    def _note_end(self, error: Exception) -> None:
        reason = describe(error) or type(error).__name__
        if reason != self._reason:
            # a server that is down is logged by the shared tier
            is_refused = isinstance(error, (ErrorReply, FeedRefused))
            logger.log(logging.WARNING if is_refused else logging.INFO, "near cache off: %s", reason)
        self._reason = reason

    def _listen(self, wire: Wire, backoff: Backoff) -> None:
        """Read until the feed ends; the reply to every heartbeat proves that nothing is pending."""
        wire.set_timeout(HEARTBEAT_SECONDS)
        heartbeat = _Heartbeat(wire, self._capability)
        heard_at = time.monotonic()
        while not self._stopping.is_set():
            try:
                message = wire.read()
                heard_at = time.monotonic()
                if isinstance(message, Push):
                    self._hear(message)
                elif heartbeat.take(message):
                    # what changed until now has been heard of, and the server lets others change it
                    self._note_heartbeat(backoff)
            except redis.TimeoutError:
                pass
            now = time.monotonic()
            if now - heard_at > SILENCE_SECONDS:
                raise redis.TimeoutError(f"no heartbeat within {SILENCE_SECONDS:g} s")
            heartbeat.beat(now)

    def _note_heartbeat(self, backoff: Backoff) -> None:
        if not self._near.is_live:
            self._near.open()
            self._reason = None
            backoff.reset()

    def _hear(self, message: Push) -> None:
        if message[:1] != [b"invalidate"]:
            return
        keys = message[1] if len(message) > 1 else None
        if keys is None:
            self._near.clear()
        else:
            skipped = len(self._prefix)
            self._near.invalidate([key.decode("utf-8", "replace")[skipped:] for key in keys])


class _Heartbeat:
    """Asks the server of a feed again and again whether it can invalidate."""

    def __init__(self, wire: Wire, capability: CapabilityCheck) -> None:
        self._wire = wire
        self._capability = capability
        self._steps: list[Step] = []
        self._replies: list[Any] = []
        self._sent_at = float("-inf")
        self.beat(time.monotonic())

    def beat(self, now: float) -> None:
        """Ask when it is time and the last reply is there."""
        if self._steps or now - self._sent_at < HEARTBEAT_SECONDS:
            return
        self._steps = self._capability.list_recheck(self._wire.protocol)
        self._sent_at = now
        self._wire.send(b"".join(step.command for step in self._steps))

    def take(self, reply: Any) -> bool:
        """Take a reply; return whether all is well up to now. Raises `ErrorReply`."""
        self._replies.append(reply)
        if len(self._replies) < len(self._steps):
            return False
        judge(self._steps, self._replies)
        self._steps, self._replies = [], []
        return True


def pack_subscription(prefix: str, families: Sequence[str]) -> bytes:
    """Encode the command that makes a connection hear of every key of the families."""
    arguments: list[str] = []
    for family in families:
        arguments += ("PREFIX", prefix + family)
    return pack("CLIENT", "TRACKING", "ON", "BCAST", *arguments)


def subscribe(wire: Wire, subscription: bytes) -> None:
    """Let a connection hear of changes; raises `FeedRefused`, and `ErrorReply` in the server's words."""
    if not wire.protocol:
        wire.connect()
    if wire.protocol != PUSH_PROTOCOL:
        # RESP2 has no pushes: the server would confirm and tell nothing
        raise FeedRefused("the connection has RESP2, and Redis tells of changes with RESP3 alone")
    [reply] = wire.exchange([subscription])
    if isinstance(reply, ErrorReply):
        raise ErrorReply(f"{reply} (refused: CLIENT TRACKING)")
    if reply != b"OK":
        raise FeedRefused("the server did not confirm CLIENT TRACKING")
