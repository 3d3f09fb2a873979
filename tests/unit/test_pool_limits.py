"""A server that gives fewer connections than the pool may hold: callers queue for what there is."""

import logging
import threading
from typing import Any

import pytest

from core.database.pool import GROW_AGAIN_SECONDS
from core.errors import ConnectionsExhausted, PoolTimeout
from tests.unit.test_pool import Fixture, StandInConnection, Thread, wait_for_waiters

REFUSAL = "cannot connect to the database (FATAL: too many connections for role)"


class Scarce(Fixture):
    """A pool of ten on a server that gives some connections, at most `given` at a time."""

    def __init__(self, *, given: int, timeout_seconds: float = 30.0) -> None:
        self.given = given
        self.refused = 0
        self.is_answering = True
        super().__init__(limit=10, timeout_seconds=timeout_seconds)

    def connect(self) -> StandInConnection:
        """Open a stand-in, or refuse it."""
        if sum(not each.closed for each in self.opened) >= self.given:
            self.refused += 1
            raise ConnectionsExhausted(REFUSAL, is_refused=self.is_answering)
        return super().connect()


def take(fixture: Scarce, count: int) -> tuple[list[Thread], list[Any]]:
    """Start checkouts one after the other; those that wait stand in that order."""
    threads, got = [], []
    for number in range(count):
        threads.append(Thread(lambda: got.append(fixture.pool.checkout("waiter"))))
        threads[-1].start()
        wait_for_waiters(fixture.pool, number + 1)
    return threads, got


def test_who_is_refused_queues_for_what_there_is(caplog: pytest.LogCaptureFixture) -> None:
    """Six checkouts share three connections: none fails, and the new limit is logged once."""
    fixture = Scarce(given=3)
    held = [fixture.pool.checkout("holder") for _ in range(3)]
    with caplog.at_level(logging.WARNING):
        threads, got = take(fixture, 3)
    assert fixture.refused == 1, "those that came later did not try"
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


def test_who_is_refused_keeps_its_place_in_the_queue() -> None:
    """Its request is older than the others, so it is served first."""
    fixture = Scarce(given=1)
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
        wait_for_waiters(fixture.pool, number + 1)
    fixture.may_connect.set()
    fixture.pool.checkin(held)
    for thread in threads:
        thread.join(5)
    assert order == ["refused", "second", "third"]


def test_without_any_connection_the_refusal_is_the_answer() -> None:
    """No check-in could serve it, so it gets the error; the next caller tries again with the same slot."""
    fixture = Scarce(given=0)
    for _ in range(3):
        with pytest.raises(ConnectionsExhausted):
            fixture.pool.checkout("a")
    assert fixture.pool.stats().pool_size == 0
    fixture.given = 1
    fixture.pool.checkin(fixture.pool.checkout("a"))


def test_many_that_are_refused_at_once_are_all_answered() -> None:
    """Each of them counted on the connections of others, which were refused as well."""
    fixture = Scarce(given=0)
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        fixture.pool.checkout("a")

    threads = [Thread(ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert all(isinstance(thread.error, ConnectionsExhausted) for thread in threads)
    stats = fixture.pool.stats()
    assert (stats.pool_size, stats.requests_waiting) == (0, 0)


def test_the_pool_grows_again_when_the_server_gives_more(caplog: pytest.LogCaptureFixture) -> None:
    """A pending request tries after a while; when that succeeds, the others follow at once."""
    fixture = Scarce(given=2)
    for _ in range(2):
        fixture.pool.checkout("holder")
    threads, got = take(fixture, 3)
    fixture.given = 10
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


def test_a_server_that_stays_full_is_asked_seldom() -> None:
    """There is one attempt per interval, however many requests are pending."""
    fixture = Scarce(given=2, timeout_seconds=1_000)
    held = [fixture.pool.checkout("holder") for _ in range(2)]
    threads, _ = take(fixture, 4)
    for attempt in range(2, 5):
        fixture.clock.now += GROW_AGAIN_SECONDS
        for _ in range(10_000):
            if fixture.refused == attempt:
                break
            threading.Event().wait(0.001)
        wait_for_waiters(fixture.pool, 4)
        assert fixture.refused == attempt
    for raw in held:
        fixture.pool.checkin(raw)
    for thread in threads[:2]:
        thread.join(5)
        assert not thread.is_alive()
    fixture.pool.close(0)


def test_a_timeout_says_that_the_server_refuses_more() -> None:
    """The error names whose limit has to be raised."""
    fixture = Scarce(given=2, timeout_seconds=3)
    for _ in range(2):
        fixture.pool.checkout("holder")
    [thread], _ = take(fixture, 1)
    fixture.clock.now += 3
    thread.join(5)
    assert isinstance(thread.error, PoolTimeout)
    for part in (
        "one of 2 connections, and the server refuses more",
        "limit of the server or the role",
    ):
        assert part in str(thread.error)


def test_a_broken_connection_is_replaced_for_who_waits() -> None:
    """Its slot is free on the server too."""
    fixture = Scarce(given=2)
    first: Any = fixture.pool.checkout("holder")
    fixture.pool.checkout("holder")
    threads, got = take(fixture, 1)
    first.closed = 1
    fixture.pool.checkin(first)
    threads[0].join(5)
    assert got == [fixture.opened[2]]


def test_a_server_that_does_not_answer_is_an_error_at_once() -> None:
    """Open connections may be dead as well, so no request queues for them."""
    fixture = Scarce(given=2)
    for _ in range(2):
        fixture.pool.checkout("holder")
    fixture.is_answering = False
    with pytest.raises(ConnectionsExhausted):
        fixture.pool.checkout("a")
    stats = fixture.pool.stats()
    assert (stats.pool_size, stats.pool_max, stats.requests_waiting) == (2, 10, 0)
