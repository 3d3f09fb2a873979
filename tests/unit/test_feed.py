"""The invalidation feed: its pauses between attempts, its log lines, and its reads of pushes."""

import logging
import threading
from itertools import pairwise
from typing import cast
from unittest.mock import MagicMock

import pytest
import redis

from core.backoff import Backoff
from core.cache.capability import CapabilityCheck, FeedRefused
from core.cache.change_log import ChangeLog
from core.cache.connection import ErrorReply, Push, RedisConnection
from core.cache.feed import (
    GATHER_SECONDS,
    HEARTBEAT_SECONDS,
    MAX_PAUSE_SECONDS,
    InvalidationFeed,
)
from core.cache.near import NearCache


class StopAfterPauses(threading.Event):
    """A stop event that is set after a number of pauses; its `wait` returns at once."""

    def __init__(self, attempts: int) -> None:
        super().__init__()
        self.pauses: list[float] = []
        self._attempts = attempts

    def wait(self, timeout: float | None = None) -> bool:
        """Record the pause; return whether the feed must end."""
        self.pauses.append(timeout or 0.0)
        if len(self.pauses) == self._attempts:
            self.set()
        return self.is_set()


def run_feed(errors: list[Exception]) -> tuple[InvalidationFeed, list[float]]:
    """Run a feed whose connection attempts raise these errors; return the feed and its pauses."""

    def connect() -> RedisConnection:
        raise errors[len(stop.pauses)]

    near = NearCache(ChangeLog(), max_entries=1, ttl_seconds=1)
    feed = InvalidationFeed(connect, near, prefix="", capability=CapabilityCheck("", ()))
    feed._stopping = stop = StopAfterPauses(len(errors))
    feed._run()
    assert not near.is_live
    return feed, stop.pauses


def test_pauses_between_attempts_grow_to_a_bound() -> None:
    """The pause between attempts grows to LONGEST_PAUSE_SECONDS and has jitter."""
    _, pauses = run_feed([redis.ConnectionError("refused")] * 40)
    late = pauses[8:]
    assert max(pauses[:2]) < 0.11
    assert all(MAX_PAUSE_SECONDS / 2 <= pause <= MAX_PAUSE_SECONDS for pause in late)
    assert len(set(late)) > len(late) / 2


def test_each_reason_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A refusal is logged as a warning, and an outage at INFO, because `RedisGuard` warns of an outage."""
    caplog.set_level(logging.INFO)
    down, refused = redis.ConnectionError("gone"), ErrorReply("NOPERM no permission")
    feed, _ = run_feed([down, down, refused, refused, FeedRefused("RESP2"), refused])
    assert [(record.levelname, record.getMessage()[:29]) for record in caplog.records] == [
        ("INFO", "near cache off: gone"),
        ("WARNING", "near cache off: NOPERM no per"),
        ("WARNING", "near cache off: RESP2"),
        ("WARNING", "near cache off: NOPERM no per"),
    ]
    assert (feed.reason or "").startswith("NOPERM no permission; docs/redis.md has the permissions")


def test_without_resp3_no_thread_is_started(caplog: pytest.LogCaptureFixture) -> None:
    """If REDIS_URL sets protocol=2, no feed thread is started, and one line is logged."""
    near = NearCache(ChangeLog(), max_entries=1, ttl_seconds=1)
    feed = InvalidationFeed(
        lambda: pytest.fail("connected"),
        near,
        prefix="",
        capability=CapabilityCheck("", ()),
        is_possible=False,
    )
    feed.start()
    assert feed._thread is None
    assert "near cache off: REDIS_URL has protocol=2" in caplog.text
    feed.close()


def test_waiting_pushes_are_read_without_a_pause() -> None:
    """The feed pauses for GATHER_SECONDS only when it has read every waiting push."""
    pushes = [Push([b"invalidate", [b"user:1"]]), Push([b"invalidate", [b"user:2"]])] * 3
    read: list[Push] = []
    pauses: list[float] = []

    class Connection:
        """A connection on which pushes arrive two at a time."""

        protocol = 3
        epoch = b""

        @property
        def has_unread(self) -> bool:
            return len(read) % 2 == 1

        def read(self) -> Push:
            read.append(pushes.pop(0))
            return read[-1]

        def pause(self, seconds: float) -> None:
            pauses.append(seconds)
            if not pushes:
                feed._stopping.set()

        def set_timeout(self, seconds: float) -> None: ...

        def send(self, data: bytes) -> None: ...

    near = NearCache(ChangeLog(), max_entries=1, ttl_seconds=1)
    feed = InvalidationFeed(MagicMock(), near, prefix="", capability=CapabilityCheck("", ()))
    feed._listen(cast("RedisConnection", Connection()), Backoff(max_seconds=1))
    assert pauses == [GATHER_SECONDS] * 3
    assert len(read) == 6


def test_pushes_do_not_delay_a_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats are HEARTBEAT_SECONDS apart, even if a push arrives shortly before one is due."""
    now = 100.0
    sent: list[float] = []

    class Connection:
        """A connection that gets a push late in each interval, and the reply to a heartbeat at once."""

        protocol = 3
        epoch = b""
        has_unread = False

        def __init__(self) -> None:
            self._replies: list[object] = []
            self._timeout = 0.0

        def read(self) -> object:
            nonlocal now
            if self._replies:
                return self._replies.pop(0)
            if len(sent) > 5:
                feed._stopping.set()
            if now - sent[-1] < HEARTBEAT_SECONDS / 2:
                now += HEARTBEAT_SECONDS * 3 / 4
                return Push([b"invalidate", [b"user:1"]])
            now += self._timeout
            raise redis.TimeoutError

        def pause(self, seconds: float) -> None: ...

        def set_timeout(self, seconds: float) -> None:
            self._timeout = seconds

        def send(self, _: bytes) -> None:
            sent.append(now)
            self._replies = [b"OK"]

    monkeypatch.setattr("core.cache.feed.time.monotonic", lambda: now)
    capability = MagicMock()
    capability.list_recheck.return_value = [MagicMock(command=b"")]
    near = NearCache(ChangeLog(), max_entries=1, ttl_seconds=1)
    feed = InvalidationFeed(MagicMock(), near, prefix="", capability=capability)
    feed._listen(cast("RedisConnection", Connection()), Backoff(max_seconds=1))
    gaps = [later - earlier for earlier, later in pairwise(sent)]
    assert gaps == pytest.approx([HEARTBEAT_SECONDS] * len(gaps))
