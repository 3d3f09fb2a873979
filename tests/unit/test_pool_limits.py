"""A server allows fewer connections than the pool's limit: requests wait for the open connections."""

import logging
import threading
from typing import Any

import pytest

from core.database.pool import GROW_AGAIN_SECONDS
from core.errors import ConnectionsExhausted, PoolTimeout
from tests.unit.test_pool import PoolFixture, StandInConnection, Thread, wait_for_pending

REFUSAL = "cannot connect to the database (FATAL: too many connections for role)"


class FullServerFixture(PoolFixture):
    """A pool of at most ten connections on a server that allows `server_limit` connections."""

    def __init__(self, *, server_limit: int, timeout_seconds: float = 30.0) -> None:
        self.server_limit = server_limit
        self.refused = 0
        self.is_answering = True
        super().__init__(limit=10, timeout_seconds=timeout_seconds)

    def connect(self) -> StandInConnection:
        """Open a stand-in, or refuse it when the server's limit is reached."""
        if sum(not each.closed for each in self.opened) >= self.server_limit:
            self.refused += 1
            raise ConnectionsExhausted(REFUSAL, is_refused=self.is_answering)
        return super().connect()


def start_checkouts(fixture: FullServerFixture, count: int) -> tuple[list[Thread], list[Any]]:
    """Start checkouts in threads, each after the previous one is pending; return threads and connections."""
    threads, got = [], []
    for number in range(count):
        threads.append(Thread(lambda: got.append(fixture.pool.checkout("waiter"))))
        threads[-1].start()
        wait_for_pending(fixture.pool, number + 1)
    return threads, got


def test_a_refused_request_waits_for_a_check_in(caplog: pytest.LogCaptureFixture) -> None:
    """Six checkouts share the three connections of the server: none fails, and the limit is logged once."""
    fixture = FullServerFixture(server_limit=3)
    held = [fixture.pool.checkout("holder") for _ in range(3)]
    with caplog.at_level(logging.WARNING):
        threads, got = start_checkouts(fixture, 3)
    assert fixture.refused == 1, "later requests did not try to connect"
    assert fixture.pool.stats().pool_max == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"the pool goes on with 3 of 10 connections: {REFUSAL}"
    ]
    for raw in held:
        fixture.pool.checkin(raw)
    for thread in threads:
        thread.join(5)
    assert sorted(map(id, got)) == sorted(map(id, held))
    assert fixture.pool.stats().pool_size == 3


def test_a_refused_request_keeps_its_position() -> None:
    """A request whose connection attempt was refused is served before requests that arrived later."""
    fixture = FullServerFixture(server_limit=1)
    held = fixture.pool.checkout("holder")
    order: list[str] = []

    def work(name: str) -> None:
        raw = fixture.pool.checkout(name)
        order.append(name)
        fixture.pool.checkin(raw)

    fixture.may_connect.clear()
    threads = []
    for number, name in enumerate(("refused", "second", "third")):
        threads.append(Thread(lambda name=name: work(name)))
        threads[-1].start()
        wait_for_pending(fixture.pool, number + 1)
    fixture.may_connect.set()
    fixture.pool.checkin(held)
    for thread in threads:
        thread.join(5)
    assert order == ["refused", "second", "third"]


def test_without_a_connection_the_refusal_is_raised() -> None:
    """When no connection is open, the server's refusal is raised, and its slot stays usable."""
    fixture = FullServerFixture(server_limit=0)
    for _ in range(3):
        with pytest.raises(ConnectionsExhausted):
            fixture.pool.checkout("a")
    assert fixture.pool.stats().pool_size == 0
    fixture.server_limit = 1
    fixture.pool.checkin(fixture.pool.checkout("a"))


def test_concurrent_refusals_are_all_raised() -> None:
    """Eight requests that the server refuses at once all raise; none waits for a check-in."""
    fixture = FullServerFixture(server_limit=0)
    barrier = threading.Barrier(8)

    def check_out() -> None:
        barrier.wait()
        fixture.pool.checkout("a")

    threads = [Thread(check_out) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert all(isinstance(thread.error, ConnectionsExhausted) for thread in threads)
    stats = fixture.pool.stats()
    assert (stats.pool_size, stats.requests_waiting) == (0, 0)


def test_the_pool_grows_when_the_server_allows_more(caplog: pytest.LogCaptureFixture) -> None:
    """After GROW_AGAIN_SECONDS one pending request connects, and then the other requests connect too."""
    fixture = FullServerFixture(server_limit=2)
    for _ in range(2):
        fixture.pool.checkout("holder")
    threads, got = start_checkouts(fixture, 3)
    fixture.server_limit = 10
    assert fixture.refused == 1
    with caplog.at_level(logging.INFO):
        fixture.clock.now += GROW_AGAIN_SECONDS
        for thread in threads:
            thread.join(10)
    assert len(got) == 3
    assert fixture.pool.stats().pool_size == 5
    for _ in range(5):
        fixture.pool.checkout("more")
    assert fixture.pool.stats().pool_max == 10


def test_a_full_server_gets_one_attempt_per_interval() -> None:
    """Four pending requests make one connection attempt per GROW_AGAIN_SECONDS."""
    fixture = FullServerFixture(server_limit=2, timeout_seconds=1_000)
    held = [fixture.pool.checkout("holder") for _ in range(2)]
    threads, _ = start_checkouts(fixture, 4)
    for attempt in range(2, 5):
        fixture.clock.now += GROW_AGAIN_SECONDS
        for _ in range(10_000):
            if fixture.refused == attempt:
                break
            threading.Event().wait(0.001)
        wait_for_pending(fixture.pool, 4)
        assert fixture.refused == attempt
    for raw in held:
        fixture.pool.checkin(raw)
    for thread in threads[:2]:
        thread.join(5)
        assert not thread.is_alive()
    fixture.pool.close(0)


def test_a_timeout_says_that_the_server_refuses_more() -> None:
    """The error says that the server refuses more connections, and which limit to raise."""
    fixture = FullServerFixture(server_limit=2, timeout_seconds=3)
    for _ in range(2):
        fixture.pool.checkout("holder")
    [thread], _ = start_checkouts(fixture, 1)
    fixture.clock.now += 3
    thread.join(5)
    assert isinstance(thread.error, PoolTimeout)
    for part in (
        "one of 2 connections, and the server refuses more",
        "limit of the server or the role",
    ):
        assert part in str(thread.error)


def test_a_broken_connection_is_replaced_for_a_pending_request() -> None:
    """After the check-in of a broken connection, the pending request opens a new one."""
    fixture = FullServerFixture(server_limit=2)
    first: Any = fixture.pool.checkout("holder")
    fixture.pool.checkout("holder")
    threads, got = start_checkouts(fixture, 1)
    first.closed = 1
    fixture.pool.checkin(first)
    threads[0].join(5)
    assert got == [fixture.opened[2]]


def test_an_unreachable_server_raises_at_once() -> None:
    """If the server does not answer, checkout raises at once, because open connections may be broken too."""
    fixture = FullServerFixture(server_limit=2)
    for _ in range(2):
        fixture.pool.checkout("holder")
    fixture.is_answering = False
    with pytest.raises(ConnectionsExhausted):
        fixture.pool.checkout("a")
    stats = fixture.pool.stats()
    assert (stats.pool_size, stats.pool_max, stats.requests_waiting) == (2, 10, 0)
