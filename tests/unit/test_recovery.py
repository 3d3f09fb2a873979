"""The circuit breaker of Redis, and the recovery thread that closes it again."""

import threading
from collections.abc import Iterator
from functools import partial
from typing import cast

import pytest

from core.backoff import FIRST_SECONDS, MAX_SECONDS, Backoff
from core.cache import breaker as breaker_module
from core.cache.breaker import CircuitBreaker, Recovery
from core.cache.outbox import InvalidationOutbox, KeyScripts
from tests.patience import stretch, wait_until


def test_pauses_double_and_have_jitter() -> None:
    """Pauses double up to MAX_SECONDS, jitter shortens them by up to half, and `reset` starts again."""
    longest = Backoff(pick=lambda _, high: high)
    pauses = [longest.next_seconds() for _ in range(10)]
    assert pauses[:3] == [FIRST_SECONDS, FIRST_SECONDS * 2, FIRST_SECONDS * 4]
    assert pauses[-1] == pauses[-2] == MAX_SECONDS
    shortest = Backoff(pick=lambda low, _: low)
    assert [shortest.next_seconds() for _ in range(10)] == [pause / 2 for pause in pauses]
    longest.reset()
    assert longest.next_seconds() == FIRST_SECONDS
    assert len({Backoff().next_seconds() for _ in range(20)}) > 10


@pytest.fixture
def reports() -> list[bool]:
    """Return a list to which the breaker appends whether it is open: at its creation, then at each change."""
    return []


@pytest.fixture
def breaker(reports: list[bool]) -> CircuitBreaker:
    """Return a closed breaker."""
    return CircuitBreaker(on_change=reports.append)


def test_one_timeout_is_no_outage(breaker: CircuitBreaker, reports: list[bool]) -> None:
    """One timeout stops reads and invalidations, but does not open the breaker."""
    assert not breaker.record_failure("late", is_attempt=False)
    assert not breaker.is_closed
    assert not breaker.is_open
    assert not breaker.allows_invalidations
    breaker.half_open()
    assert breaker.allows_invalidations
    assert not breaker.is_closed
    assert breaker.close()
    assert breaker.is_closed
    assert breaker.reason is None
    assert reports == [False]


def test_concurrent_timeouts_count_once(breaker: CircuitBreaker) -> None:
    """The timeouts of 64 calls that were already running do not open the breaker."""
    for _ in range(64):
        assert not breaker.record_failure("late", is_attempt=False)
    assert not breaker.is_open


def test_two_failed_attempts_open_the_breaker(breaker: CircuitBreaker, reports: list[bool]) -> None:
    """Two failed attempts to reconnect open the breaker, and the outage is reported once."""
    breaker.record_failure("late", is_attempt=False)
    assert not breaker.record_failure("late", is_attempt=True)
    assert breaker.record_failure("hung", is_attempt=True)
    assert not breaker.record_failure("hung", is_attempt=True)
    assert breaker.is_open
    assert breaker.reason == "hung"
    breaker.half_open()
    assert breaker.close()
    assert reports == [False, True, False]


def test_a_refused_connection_opens_the_breaker(breaker: CircuitBreaker) -> None:
    """A refused connection opens the breaker at once."""
    assert breaker.record_failure("Connection refused", is_attempt=False, no_server=True)
    assert breaker.is_open
    assert not breaker.allows_invalidations


def test_a_refused_command_allows_invalidations(breaker: CircuitBreaker, reports: list[bool]) -> None:
    """A refused command opens the breaker for reads, but invalidations are allowed until a timeout."""
    assert breaker.record_refusal("READONLY")
    assert not breaker.record_refusal("READONLY")
    assert breaker.is_open
    assert not breaker.is_closed
    assert breaker.allows_invalidations
    assert breaker.record_failure("hung", is_attempt=False) is False
    assert not breaker.allows_invalidations, "no other caller waits for a server that hangs"
    assert breaker.record_refusal("READONLY"), "a refusal after a timeout counts again"
    assert reports == [False, True]


def test_a_failure_while_half_open_keeps_the_breaker_open(breaker: CircuitBreaker) -> None:
    """If a command fails while the breaker is half open, `close` does not close the breaker."""
    breaker.record_refusal("READONLY")
    breaker.half_open()
    breaker.record_refusal("READONLY")
    assert not breaker.close()
    assert breaker.is_open


class FakeServer:
    """A server that the recovery thread tries; it works unless `is_down` is set."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self.breaker = breaker
        self.is_down = False
        self.attempts = 0
        self.sent: list[str] = []
        self.half_open_sent: list[bool] = []
        self.outbox = InvalidationOutbox()
        self.recovered = threading.Event()
        self.recovery = Recovery(
            self.attempt, breaker=breaker, outbox=self.outbox, on_recovered=self.recovered.set
        )

    def release(self, keys: object, _: bytes) -> None:
        """Record the keys of an invalidation."""
        self.half_open_sent.append(self.breaker._is_half_open)
        self.sent += keys  # type: ignore[arg-type]  # a list of keys

    def attempt(self) -> bool:
        """Flush the outbox, or record a failure; returns whether the server works."""
        self.attempts += 1
        if self.is_down:
            self.breaker.record_failure("hung", is_attempt=True)
            return False
        self.outbox.flush(cast(KeyScripts, self))
        return True


@pytest.fixture
def server(breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """Yield a server behind the breaker, with pauses of at most 10 ms between attempts."""
    monkeypatch.setattr(breaker_module, "Backoff", partial(Backoff, first_seconds=0.001, max_seconds=0.01))
    server = FakeServer(breaker)
    yield server
    server.recovery.close()


def test_the_recovery_thread_flushes_and_closes(
    server: FakeServer, breaker: CircuitBreaker, reports: list[bool]
) -> None:
    """The recovery thread flushes the outbox, closes the breaker without any caller, and ends."""
    server.is_down = True
    breaker.record_failure("hung", is_attempt=False)
    server.outbox.add(["k"], b"")
    server.recovery.start()
    server.recovery.start()
    wait_until(lambda: breaker.is_open, "the breaker opens")
    assert not server.sent
    server.is_down = False
    assert server.recovered.wait(stretch(5))
    assert breaker.is_closed
    assert server.sent == ["k"]
    assert reports == [False, True, False]
    wait_until(lambda: server.recovery._thread is None, "the thread ends")


def test_a_late_invalidation_is_sent_before_the_breaker_closes(
    server: FakeServer, breaker: CircuitBreaker
) -> None:
    """An invalidation that is added after the first flush is sent while the breaker is still half open."""
    breaker.record_refusal("READONLY")
    attempt, is_first = server.attempt, [True]

    def attempt_and_add() -> bool:
        done = attempt()
        if is_first.pop() if is_first else False:
            server.outbox.add(["late"], b"")
        return done

    server.recovery._attempt = attempt_and_add
    server.recovery.start()
    assert server.recovered.wait(stretch(5))
    assert server.sent == ["late"]
    assert server.half_open_sent == [True]


def test_an_unexpected_error_does_not_end_the_recovery(
    server: FakeServer, breaker: CircuitBreaker, caplog: pytest.LogCaptureFixture
) -> None:
    """The recovery thread logs an unexpected error and tries again; otherwise Redis would stay unused."""
    attempt, errors = server.attempt, [RuntimeError("unexpected")]

    def fail_once() -> bool:
        if errors:
            raise errors.pop()
        return attempt()

    server.recovery._attempt = fail_once
    breaker.record_refusal("READONLY")
    server.recovery.start()
    assert server.recovered.wait(stretch(5))
    assert "unexpected" in caplog.text


def test_a_closed_recovery_starts_no_thread(server: FakeServer) -> None:
    """After `close`, `start` starts no thread, because the process is ending."""
    server.recovery.close()
    server.recovery.start()
    assert server.recovery._thread is None
