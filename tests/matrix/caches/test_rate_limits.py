"""Rate limits that several processes count together, on each server, and what happens without one."""

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from core import Settings
from core.web.rate_limits import PAUSE_SECONDS, Decision, RateLimit, RateLimits, open_rate_limits
from tests.matrix.caches.conftest import MakeServer, set_user
from tests.matrix.caches.servers import RedisServer
from tests.patience import wait_until

PREFIX = "echo:"
LIMIT = RateLimit("pages", requests=3, seconds=600)


@pytest.fixture
def server(make_server: MakeServer) -> RedisServer:
    """A server on which the user `echo` has the documented permissions, for the keys of one prefix."""
    server = make_server()
    set_user(server, keys=f"~{PREFIX}*")
    return server


@pytest.fixture
def settings(server: RedisServer) -> Settings:
    """Settings of a process that counts on that server."""
    return Settings(
        database_url=SecretStr("postgresql://nobody@127.0.0.1:1/nothing"),
        redis_url=SecretStr(server.url("echo:of%20echo")),
        redis_key_prefix=PREFIX,
    )


class Process:
    """The limits of a process, and what it counted."""

    def __init__(self, settings: Settings) -> None:
        self.counted: list[tuple[str, bool]] = []
        self.now = 0.0
        self.limits: RateLimits = open_rate_limits(
            settings, role="dashboard", count=lambda *each: self.counted.append(each)
        )
        # pauses after a failure are skipped by setting the clock
        self.limits._clock = lambda: self.now

    def take(self, name: str = "192.0.2.7", **options: Any) -> Decision:
        """Count a request."""
        return self.limits.take(LIMIT, name, **options)


@pytest.fixture
def processes(settings: Settings) -> Iterator[tuple[Process, Process]]:
    """Two processes."""
    with ExitStack() as closing:
        both = Process(settings), Process(settings)
        for each in both:
            closing.callback(each.limits.close)
        yield both


def test_processes_count_together(processes: tuple[Process, Process]) -> None:
    """With the cache's permissions processes share each count; the metrics have the refusals."""
    one, other = processes
    decisions = [process.take() for process in (one, other, one, other, one)]
    assert [each.is_allowed for each in decisions] == [True, True, True, False, False]
    assert [each.remaining for each in decisions] == [2, 1, 0, 0, 0]
    assert all(0 < each.seconds <= 600 for each in decisions)
    assert other.take("192.0.2.8").is_allowed
    assert one.counted == [("pages", False), ("pages", False), ("pages", True)]


def test_requests_at_the_same_time_are_each_counted(processes: tuple[Process, Process]) -> None:
    """Three of forty threads in two processes are allowed."""
    allowed: list[bool] = []
    start = threading.Barrier(40)

    def take(process: Process) -> None:
        start.wait()
        allowed.append(process.take().is_allowed)

    threads = [threading.Thread(target=take, args=(processes[n % 2],)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(allowed) == 3


def test_a_window_slides(settings: Settings) -> None:
    """After a second some requests are allowed again, and all of them after the whole window."""
    process = Process(settings)
    limit = RateLimit("pages", requests=2, seconds=1)

    def take() -> bool:
        return process.limits.take(limit, "alice").is_allowed

    assert take()
    wait_until(lambda: not take(), "the limit is reached")
    wait_until(take, "there is room again")
    process.limits.close()


def test_a_key_says_nothing_about_a_person(processes: tuple[Process, Process], server: RedisServer) -> None:
    """A key of the counters has the prefix and no address, and expires."""
    processes[0].take("alice@example.com")
    with redis.Redis.from_url(server.url()) as client:
        [key] = client.keys("*")
        assert key.startswith(b"echo:ratelimit/pages/")
        assert b"alice" not in key
        assert 0 < client.pttl(key) <= 1_200_000


def test_without_redis_each_process_counts_alone(
    processes: tuple[Process, Process], server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Each process then counts alone, except that what must fail closed is refused; both log one line."""
    caplog.set_level(logging.INFO, "core.web.rate_limits")
    one, other = processes
    one.take()
    with server.hung():
        assert [one.take().is_allowed for _ in range(4)] == [True, True, True, False]
        assert other.take().is_allowed
        refused = one.take("olivia@example.com", fails_closed=True)
        assert (refused.is_allowed, refused.is_counted) == (False, False)
    one.now += PAUSE_SECONDS
    assert one.take("olivia@example.com", fails_closed=True).is_allowed
    told = [record.message for record in caplog.records]
    assert sum("counted by each process alone" in each for each in told) == 2
    assert sum("counted in Redis again" in each for each in told) == 1


def test_a_counter_that_something_else_wrote_begins_anew(
    processes: tuple[Process, Process], server: RedisServer
) -> None:
    """A value of any kind under a counter's key is replaced without an error."""
    one, _ = processes
    one.take()
    with redis.Redis.from_url(server.url()) as client:
        [key] = client.keys("*")
        for value in (b"", b"nonsense", b"-1 2 3", b"9" * 400 + b" 1 1"):
            client.set(key, value)
            assert one.take().is_allowed
    assert not any(is_rejected for _, is_rejected in one.counted)


def test_a_stack_without_redis_uses_memory(settings: Settings) -> None:
    """With ENABLE_REDIS_CACHE=false the process counts, actions are allowed, and no outage is reported."""
    process = Process(settings.model_copy(update={"enable_redis_cache": False}))
    taken = [process.take(fails_closed=True) for _ in range(4)]
    assert [each.is_allowed for each in taken] == [True, True, True, False]
    assert all(each.is_counted for each in taken)
