"""The pool's order, limits and recovery, with stand-ins for connections.

The pool runs no SQL except its ping, so a stand-in is enough. Tests of the pool with a real server are in
tests/integration/test_database.py.
"""

import os
import threading
from collections.abc import Iterator
from typing import Any, Self

import psycopg2
import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS

from core.database.pool import (
    EXPIRE_INTERVAL_SECONDS,
    LEAK_SECONDS,
    MAX_LIFETIME_SECONDS,
    RECLAIM_INTERVAL_SECONDS,
    ConnectionPool,
)
from core.database.pooled_connection import PING_AFTER_IDLE_SECONDS
from core.errors import PoolClosed, PoolTimeout
from core.metrics import Metrics
from tests.patience import wait_until


class StandInConnection:
    """The methods and attributes of a psycopg2 connection that the pool uses."""

    def __init__(self) -> None:
        self.closed = 0
        self.pings = 0
        self.backend_pid = id(self)
        self.statements: list[tuple[object, ...]] = []
        self.is_dead = False
        self.interrupts = 0
        self.keeps_session = True
        self._reading, self._writing = os.pipe()
        self.info = self
        self.transaction_status = TRANSACTION_STATUS_IDLE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the `with` block of the cursor."""

    def cursor(self) -> "StandInConnection":
        """Return this object, which is also its cursor."""
        return self

    def execute(self, _: str, *parameters: tuple[object, ...]) -> None:
        """Count a ping; raises if the test has set `interrupts` or `is_dead`."""
        self.pings += 1
        self.statements += parameters
        if self.interrupts:
            self.interrupts -= 1
            raise KeyboardInterrupt
        if self.is_dead:
            raise psycopg2.OperationalError("server closed the connection")

    def fileno(self) -> int:
        """Return the reading end of a pipe, in place of a socket."""
        return self._reading

    def receive(self) -> None:
        """Make unread data arrive, as when the server closes the connection."""
        os.write(self._writing, b"x")

    def close(self) -> None:
        """Mark the connection as closed."""
        self.closed = 1

    def __del__(self) -> None:
        """Close the pipe."""
        os.close(self._reading)
        os.close(self._writing)


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the current time."""
        return self.now


class PoolFixture:
    """A pool, its clock, and the connections that it opened."""

    def __init__(self, *, limit: int = 2, timeout_seconds: float = 30.0) -> None:
        self.clock = Clock()
        self.opened: list[StandInConnection] = []
        self.failure: Exception | None = None
        self.connecting, self.may_connect = threading.Event(), threading.Event()
        self.may_connect.set()
        self.pool = ConnectionPool(
            self.connect,  # type: ignore[arg-type]  # a stand-in
            limit=limit,
            timeout_seconds=timeout_seconds,
            metrics=Metrics("job"),
            clock=self.clock,
            jitter=lambda _, high: high,
        )

    def connect(self) -> StandInConnection:
        """Open a stand-in; raises `failure` if it is set, and blocks while `may_connect` is clear."""
        if self.failure is not None:
            raise self.failure
        self.connecting.set()
        assert self.may_connect.wait(10)
        self.opened.append(StandInConnection())
        return self.opened[-1]


class Thread(threading.Thread):
    """A thread that keeps the exception of its target."""

    def __init__(self, target: Any) -> None:
        super().__init__(daemon=True)
        self.work = target
        self.error: BaseException | None = None

    def run(self) -> None:
        """Call the target and keep its exception."""
        try:
            self.work()
        except BaseException as error:
            self.error = error


@pytest.fixture
def fixture() -> Iterator[PoolFixture]:
    """Yield a pool of at most two connections, which are stand-ins."""
    made = PoolFixture()
    yield made
    made.pool.close(0)


def wait_for_pending(pool: ConnectionPool, count: int) -> None:
    """Return once the pool has `count` pending requests."""
    wait_until(lambda: pool.stats().requests_waiting == count, f"{count} threads wait", 10.0)


def test_reuses_the_connection_that_was_used_last(fixture: PoolFixture) -> None:
    """A checkout gets the idle connection that was checked in last."""
    first, second = fixture.pool.checkout("a"), fixture.pool.checkout("b")
    fixture.pool.checkin(first)
    fixture.pool.checkin(second)
    assert fixture.pool.checkout("c") is second


def test_never_opens_more_than_its_limit(fixture: PoolFixture) -> None:
    """With a limit of two, a third checkout waits for a check-in and opens no connection."""
    first, _ = fixture.pool.checkout("a"), fixture.pool.checkout("b")
    got: list[object] = []
    waiter = Thread(lambda: got.append(fixture.pool.checkout("c")))
    waiter.start()
    wait_for_pending(fixture.pool, 1)
    fixture.pool.checkin(first)
    waiter.join(5)
    assert got == [first]
    assert len(fixture.opened) == 2


@pytest.mark.parametrize("is_broken", [False, True])
def test_hands_over_first_in_first_out(*, is_broken: bool) -> None:
    """Pending requests are served in the order of arrival, also if the connection breaks each time."""
    fixture = PoolFixture(limit=1)
    held: Any = fixture.pool.checkout("holder")
    held.closed = int(is_broken)
    order: list[int] = []

    def work(number: int) -> None:
        connection: Any = fixture.pool.checkout(f"waiter {number}")
        order.append(number)
        connection.closed = int(is_broken)
        fixture.pool.checkin(connection)

    threads = []
    for number in range(8):
        threads.append(Thread(lambda number=number: work(number)))
        threads[-1].start()
        wait_for_pending(fixture.pool, number + 1)
    fixture.pool.checkin(held)
    for thread in threads:
        thread.join(5)
    assert order == list(range(8))
    assert len(fixture.opened) == (9 if is_broken else 1)


def test_a_busy_thread_does_not_overtake_a_pending_request() -> None:
    """A thread that checks in and at once checks out again is served after the pending request."""
    fixture = PoolFixture(limit=1)
    held = fixture.pool.checkout("busy")
    waiter = Thread(lambda: fixture.pool.checkin(fixture.pool.checkout("waiter")))
    waiter.start()
    wait_for_pending(fixture.pool, 1)
    fixture.pool.checkin(held)
    fixture.pool.checkin(fixture.pool.checkout("busy again"))
    waiter.join(5)
    assert not waiter.is_alive()
    assert waiter.error is None


def test_timeout_names_limit_wait_and_holders() -> None:
    """The error has the waiting operation, the wait, the limit, and each holder's operation and thread."""
    fixture = PoolFixture(limit=1, timeout_seconds=3)
    fixture.pool.checkout("get_leaderboard")
    fixture.clock.now += 10
    started = fixture.clock.now

    def wait() -> None:
        fixture.pool.checkout("search_users")

    waiter = Thread(wait)
    waiter.start()
    wait_for_pending(fixture.pool, 1)
    fixture.clock.now = started + 3
    waiter.join(5)
    assert isinstance(waiter.error, PoolTimeout)
    message = str(waiter.error)
    for part in ("search_users", "3.0 s", "1 connections", "get_leaderboard in MainThread for 13.0 s"):
        assert part in message
    assert fixture.pool.stats().requests_errors == 1


def test_pings_only_after_idling(fixture: PoolFixture) -> None:
    """Only a connection that was idle for PING_AFTER_IDLE_SECONDS is pinged at checkout."""
    fixture.pool.checkin(fixture.pool.checkout("a"))
    fixture.pool.checkin(fixture.pool.checkout("b"))
    assert fixture.opened[0].pings == 0
    fixture.clock.now += PING_AFTER_IDLE_SECONDS
    fixture.pool.checkin(fixture.pool.checkout("c"))
    assert fixture.opened[0].pings == 1


def test_replaces_a_connection_that_died_while_idle(fixture: PoolFixture) -> None:
    """If the ping at checkout fails, the connection is closed and a new one is opened."""
    fixture.pool.checkin(fixture.pool.checkout("a"))
    fixture.opened[0].is_dead = True
    fixture.clock.now += PING_AFTER_IDLE_SECONDS
    assert fixture.pool.checkout("b") is fixture.opened[1]
    assert fixture.opened[0].closed
    stats = fixture.pool.stats()
    assert (stats.pool_size, stats.connections_lost) == (1, 1)


def test_a_failed_ping_causes_pings_of_idle_connections(fixture: PoolFixture) -> None:
    """After a failed ping, every idle connection is pinged at its next checkout, even a recently used one."""
    first, second = fixture.pool.checkout("a"), fixture.pool.checkout("b")
    fixture.pool.checkin(second)
    fixture.clock.now += PING_AFTER_IDLE_SECONDS - 1
    fixture.pool.checkin(first)
    fixture.clock.now += 1
    fixture.pool.checkin(fixture.pool.checkout("c"))
    assert fixture.opened[0].pings == 0, "too early"
    fixture.opened[1].is_dead = True
    held = fixture.pool.checkout("d")
    fixture.pool.checkout("e")
    assert held is first
    fixture.pool.checkin(held)
    fixture.pool.checkout("f")
    assert fixture.opened[0].pings == 1


@pytest.mark.parametrize("is_dead", [False, True])
def test_an_idle_connection_with_unread_data_is_pinged(fixture: PoolFixture, *, is_dead: bool) -> None:
    """An idle connection with unread data is pinged: the server sent a notice or closed the connection."""
    fixture.pool.checkin(fixture.pool.checkout("a"))
    fixture.opened[0].is_dead = is_dead
    fixture.opened[0].receive()
    got: Any = fixture.pool.checkout("b")
    assert fixture.opened[0].pings == 1
    assert got is fixture.opened[int(is_dead)]


def test_an_interrupt_frees_the_slot() -> None:
    """Ctrl-C during a ping or a rollback closes the connection, which has an unread reply."""
    fixture = PoolFixture(limit=1)
    fixture.pool.checkin(fixture.pool.checkout("a"))
    fixture.clock.now += PING_AFTER_IDLE_SECONDS
    fixture.opened[0].interrupts = 1
    with pytest.raises(KeyboardInterrupt):
        fixture.pool.checkout("b")
    held = fixture.pool.checkout("c")
    fixture.opened[1].transaction_status = TRANSACTION_STATUS_INTRANS
    fixture.opened[1].interrupts = 1
    with pytest.raises(KeyboardInterrupt):
        fixture.pool.checkin(held)
    fixture.pool.checkout("d")
    assert [connection.closed for connection in fixture.opened] == [1, 1, 0]
    assert fixture.pool.stats().pool_size == 1


def test_a_broken_connection_causes_pings_of_idle_connections(fixture: PoolFixture) -> None:
    """After the check-in of a broken connection, idle connections are pinged, so a retry gets a live one."""
    first, second = fixture.pool.checkout("a"), fixture.pool.checkout("b")
    fixture.pool.checkin(second)
    fixture.opened[1].is_dead = True
    fixture.opened[0].closed = 2
    fixture.pool.checkin(first)
    assert fixture.pool.checkout("c") is fixture.opened[2]
    assert fixture.pool.stats().connections_lost == 2


def test_closes_a_connection_past_its_lifetime(fixture: PoolFixture) -> None:
    """A connection that is older than MAX_LIFETIME_SECONDS is replaced at checkout."""
    fixture.pool.checkin(fixture.pool.checkout("a"))
    fixture.clock.now += MAX_LIFETIME_SECONDS
    assert fixture.pool.checkout("b") is fixture.opened[1]
    assert fixture.opened[0].closed


def test_lifetimes_have_jitter_below_the_maximum() -> None:
    """Jitter shortens lifetimes by less than half, so that connections are not all closed together."""
    spread = {"low": 0.0, "high": 0.0}
    fixture = PoolFixture()

    def jitter(low: float, high: float) -> float:
        spread.update(low=low, high=high)
        return low

    fixture.pool._jitter = jitter
    fixture.pool.checkin(fixture.pool.checkout("read"))
    assert 0.5 < spread["low"] < spread["high"] == 1
    fixture.clock.now += MAX_LIFETIME_SECONDS * spread["low"]
    fixture.pool.checkout("read")
    assert [raw.closed for raw in fixture.opened] == [1, 0]


def test_a_failed_connect_frees_its_slot(fixture: PoolFixture) -> None:
    """After a hundred failed attempts to connect, the pool can still open two connections."""
    fixture.failure = psycopg2.OperationalError("refused")
    for _ in range(100):
        with pytest.raises(psycopg2.OperationalError):
            fixture.pool.checkout("a")
    fixture.failure = None
    fixture.pool.checkout("b")
    fixture.pool.checkout("c")
    assert fixture.pool.stats().connections_errors == 100


def test_reclaims_the_connection_of_an_ended_thread() -> None:
    """The connection of a thread that ended without a check-in is closed, and its slot is freed."""
    fixture = PoolFixture(limit=1)
    thread = Thread(lambda: fixture.pool.checkout("leak"))
    thread.start()
    thread.join(5)
    fixture.clock.now += RECLAIM_INTERVAL_SECONDS
    assert fixture.pool.checkout("next") is fixture.opened[1]
    assert fixture.opened[0].closed


def test_maintenance_runs_once_an_interval() -> None:
    """Fifty checkouts within one interval check the used connections for leaks only once."""
    fixture = PoolFixture(limit=3, timeout_seconds=0)
    for number in range(3):
        fixture.pool.checkout(f"holder {number}")
    checks: list[float] = []
    fixture.pool._warn_of_leaks = lambda: checks.append(fixture.clock.now)  # type: ignore[method-assign]  # counted
    fixture.clock.now += RECLAIM_INTERVAL_SECONDS
    for _ in range(50):
        with pytest.raises(PoolTimeout):
            fixture.pool.checkout("late")
    assert len(checks) == 1


def test_a_second_checkin_is_ignored(fixture: PoolFixture) -> None:
    """A connection that is checked in twice is available once."""
    connection = fixture.pool.checkout("a")
    fixture.pool.checkin(connection)
    fixture.pool.checkin(connection)
    assert fixture.pool.stats().pool_available == 1


def test_close_ends_requests_and_connections(fixture: PoolFixture) -> None:
    """After `close(0)` requests fail, idle connections are closed, and used ones are cancelled."""
    first, second = fixture.pool.checkout("a"), fixture.pool.checkout("b")
    waiter = Thread(lambda: fixture.pool.checkout("c"))
    waiter.start()
    wait_for_pending(fixture.pool, 1)
    fixture.pool.close(0)
    waiter.join(5)
    assert isinstance(waiter.error, PoolClosed)
    with pytest.raises(PoolClosed):
        fixture.pool.checkout("d")
    assert [first.closed, second.closed] == [1, 1]
    pids = [first.info.backend_pid, second.info.backend_pid]
    assert fixture.opened[2].statements == [(pids,)], "on a connection of its own"
    assert fixture.pool.stats().pool_size == 0


def test_close_waits_for_a_check_in(fixture: PoolFixture) -> None:
    """A unit of work that ends before the timeout of `close` is not cancelled."""
    connection = fixture.pool.checkout("a")
    closer = Thread(lambda: fixture.pool.close(30))
    closer.start()
    wait_until(lambda: fixture.pool._is_closed, "the pool closes")
    fixture.pool.checkin(connection)
    closer.join(5)
    assert not closer.is_alive()
    assert len(fixture.opened) == 1, "none was opened to cancel with"
    assert fixture.opened[0].closed


def test_close_waits_for_a_connection_being_opened() -> None:
    """`close` waits for a connection that is being opened, and closes it after the check-in."""
    fixture = PoolFixture(limit=1)
    fixture.may_connect.clear()
    worker = Thread(lambda: fixture.pool.checkin(fixture.pool.checkout("a")))
    worker.start()
    assert fixture.connecting.wait(5)
    closer = Thread(lambda: fixture.pool.close(30))
    closer.start()
    wait_until(lambda: fixture.pool._is_closed, "the pool closes")
    assert closer.is_alive()
    fixture.may_connect.set()
    closer.join(5)
    worker.join(5)
    assert worker.error is None
    assert [connection.closed for connection in fixture.opened] == [1]


def test_a_connection_opened_after_close_is_closed() -> None:
    """A connection that is opened after the timeout of `close` is closed, and its request fails."""
    fixture = PoolFixture(limit=1)
    fixture.may_connect.clear()
    worker = Thread(lambda: fixture.pool.checkout("a"))
    worker.start()
    assert fixture.connecting.wait(5)
    fixture.pool.close(0)
    fixture.may_connect.set()
    worker.join(5)
    assert isinstance(worker.error, PoolClosed)
    assert [connection.closed for connection in fixture.opened] == [1]
    assert fixture.pool.stats().pool_size == 0


def test_stats_add_up(fixture: PoolFixture) -> None:
    """The size of the pool is the number of available plus used connections."""
    fixture.pool.checkout("a")
    fixture.pool.checkin(fixture.pool.checkout("b"))
    stats = fixture.pool.stats()
    assert (stats.pool_size, stats.pool_available, stats.pool_in_use) == (2, 1, 1)
    assert (stats.pool_max, stats.requests_num, stats.connections_num) == (2, 2, 2)


def test_a_leak_is_logged_during_and_after(caplog: pytest.LogCaptureFixture) -> None:
    """An operation that holds a connection too long is logged while a request is pending, and at check-in."""
    fixture = PoolFixture(limit=1)
    held = fixture.pool.checkout("report")
    fixture.clock.now += LEAK_SECONDS + 1
    waiter = Thread(lambda: fixture.pool.checkin(fixture.pool.checkout("next")))
    waiter.start()
    wait_for_pending(fixture.pool, 1)
    while "report in MainThread for 61.0 s" not in caplog.text:
        threading.Event().wait(0.001)
    fixture.pool.checkin(held)
    waiter.join(5)
    assert "report held a connection for 61 s" in caplog.text


def test_a_leak_is_logged_without_pending_requests(
    fixture: PoolFixture, caplog: pytest.LogCaptureFixture
) -> None:
    """The next checkout logs, only once, an operation that holds a connection too long."""
    fixture.pool.checkout("report")
    fixture.clock.now += LEAK_SECONDS + 1
    for _ in range(2):
        fixture.pool.checkin(fixture.pool.checkout("next"))
        fixture.clock.now += RECLAIM_INTERVAL_SECONDS
    assert caplog.text.count("report in MainThread for 61.0 s") == 1


def test_timeout_counts_holders_beyond_ten() -> None:
    """The error names ten holders, and counts the further holders and the connections being opened."""
    fixture = PoolFixture(limit=13, timeout_seconds=0)
    for number in range(12):
        fixture.pool.checkout(f"holder {number}")
    fixture.may_connect.clear()
    fixture.connecting.clear()
    opening = Thread(lambda: fixture.pool.checkout("opening"))
    opening.start()
    assert fixture.connecting.wait(5)
    with pytest.raises(PoolTimeout, match=r"holder 9 in MainThread for 0.0 s, 2 more, 1 being opened\)"):
        fixture.pool.checkout("late")
    fixture.may_connect.set()
    opening.join(5)


def test_expire_all_has_a_minimum_interval(fixture: PoolFixture) -> None:
    """A second `expire_all` within EXPIRE_INTERVAL_SECONDS closes no connection."""
    fixture.pool.checkin(fixture.pool.checkout("a"))
    fixture.pool.expire_all()
    fixture.pool.checkin(fixture.pool.checkout("b"))
    fixture.pool.expire_all()
    fixture.pool.checkin(fixture.pool.checkout("c"))
    assert len(fixture.opened) == 2
    fixture.clock.now += EXPIRE_INTERVAL_SECONDS
    fixture.pool.expire_all()
    fixture.pool.checkin(fixture.pool.checkout("d"))
    assert len(fixture.opened) == 3
