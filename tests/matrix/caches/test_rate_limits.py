"""Rate limits: processes count requests together in Redis, and each for itself without Redis."""

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
    """Return a server whose user `echo` has the documented permissions for the keys of one prefix."""
    server = make_server()
    set_user(server, keys=f"~{PREFIX}*")
    return server


@pytest.fixture
def settings(server: RedisServer) -> Settings:
    """Return settings of a process that counts requests on this server."""
    return Settings(
        database_url=SecretStr("postgresql://nobody@127.0.0.1:1/nothing"),
        redis_url=SecretStr(server.url("echo:of%20echo")),
        redis_key_prefix=PREFIX,
    )


class Process:
    """The rate limits of one process; `counted` has each request's limit and whether it was rejected."""

    def __init__(self, settings: Settings) -> None:
        self.counted: list[tuple[str, bool]] = []
        self.now = 0.0
        self.limits: RateLimits = open_rate_limits(
            settings, role="dashboard", count=lambda *each: self.counted.append(each)
        )
        # a test sets the clock to skip the pause after a failure of Redis
        self.limits._clock = lambda: self.now

    def take(self, name: str = "192.0.2.7", **options: Any) -> Decision:
        """Count a request of the client `name`; return the decision."""
        return self.limits.take(LIMIT, name, **options)


@pytest.fixture
def processes(settings: Settings) -> Iterator[tuple[Process, Process]]:
    """Yield the rate limits of two processes."""
    with ExitStack() as closing:
        pair = Process(settings), Process(settings)
        for process in pair:
            closing.callback(process.limits.close)
        yield pair


def test_processes_count_together(processes: tuple[Process, Process]) -> None:
    """Two processes together allow 3 requests of a client; the metrics count requests and rejections."""
    one, other = processes
    decisions = [process.take() for process in (one, other, one, other, one)]
    assert [each.is_allowed for each in decisions] == [True, True, True, False, False]
    assert [each.remaining for each in decisions] == [2, 1, 0, 0, 0]
    assert all(0 < each.seconds <= 600 for each in decisions)
    assert other.take("192.0.2.8").is_allowed
    assert one.counted == [("pages", False), ("pages", False), ("pages", True)]


def test_simultaneous_requests_are_all_counted(processes: tuple[Process, Process]) -> None:
    """With a limit of 3 requests, exactly 3 of 40 simultaneous requests in two processes are allowed."""
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
    """After the limit is reached, a request is allowed again when the window of 1 s has moved on."""
    process = Process(settings)
    limit = RateLimit("pages", requests=2, seconds=1)

    def take() -> bool:
        return process.limits.take(limit, "alice").is_allowed

    assert take()
    wait_until(lambda: not take(), "the limit is reached")
    wait_until(take, "there is room again")
    process.limits.close()


def test_a_key_contains_no_address(processes: tuple[Process, Process], server: RedisServer) -> None:
    """A counter's key has the prefix, does not contain the client's e-mail address, and expires."""
    processes[0].take("alice@example.com")
    with redis.Redis.from_url(server.url()) as client:
        [key] = client.keys("*")
        assert key.startswith(b"echo:ratelimit/pages/")
        assert b"alice" not in key
        assert 0 < client.pttl(key) <= 1_200_000


def test_without_redis_each_process_counts_alone(
    processes: tuple[Process, Process], server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """While Redis hangs, each process counts alone, and a request with `fails_closed` is refused."""
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
    messages = [record.message for record in caplog.records]
    assert sum("counted by each process alone" in message for message in messages) == 2
    assert sum("counted in Redis again" in message for message in messages) == 1


def test_an_invalid_counter_starts_again(processes: tuple[Process, Process], server: RedisServer) -> None:
    """If another program has written an invalid value to a counter's key, counting starts again at zero."""
    one, _ = processes
    one.take()
    with redis.Redis.from_url(server.url()) as client:
        [key] = client.keys("*")
        for value in (b"", b"nonsense", b"-1 2 3", b"9" * 400 + b" 1 1"):
            client.set(key, value)
            assert one.take().is_allowed
    assert not any(is_rejected for _, is_rejected in one.counted)


def test_a_process_without_redis_counts_in_memory(settings: Settings) -> None:
    """With ENABLE_REDIS_CACHE=false the process counts in memory, also requests with `fails_closed`."""
    process = Process(settings.model_copy(update={"enable_redis_cache": False}))
    taken = [process.take(fails_closed=True) for _ in range(4)]
    assert [each.is_allowed for each in taken] == [True, True, True, False]
    assert all(each.is_counted for each in taken)
