"""How Redis is given up and used again: late once, down, refusing, and back."""

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


def test_pauses_grow_and_are_spread() -> None:
    """Pauses begin short and double up to a bound; jitter makes them differ between processes."""
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
def told() -> list[bool]:
    """What was said of an outage."""
    return []


@pytest.fixture
def breaker(told: list[bool]) -> CircuitBreaker:
    """A breaker of a server that works."""
    return CircuitBreaker(on_change=told.append)


def test_one_late_answer_is_no_outage(breaker: CircuitBreaker, told: list[bool]) -> None:
    """No caller waits meanwhile, and no outage is reported."""
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
    assert told == [False]


def test_calls_that_were_under_way_count_once(breaker: CircuitBreaker) -> None:
    """However many threads wait for one late answer, it counts as one failure."""
    for _ in range(64):
        assert not breaker.record_failure("late", is_attempt=False)
    assert not breaker.is_open


def test_failed_attempts_open_it(breaker: CircuitBreaker, told: list[bool]) -> None:
    """After two failed attempts there is an outage, which is reported once."""
    breaker.record_failure("late", is_attempt=False)
    assert not breaker.record_failure("late", is_attempt=True)
    assert breaker.record_failure("hung", is_attempt=True)
    assert not breaker.record_failure("hung", is_attempt=True)
    assert breaker.is_open
    assert breaker.reason == "hung"
    breaker.half_open()
    assert breaker.close()
    assert told == [False, True, False]


def test_no_server_opens_it_at_once(breaker: CircuitBreaker) -> None:
    """A refused connection opens the breaker without further attempts."""
    assert breaker.record_failure("Connection refused", is_attempt=False, no_server=True)
    assert breaker.is_open
    assert not breaker.allows_invalidations


def test_a_refusal_opens_it_and_lets_invalidations_through(breaker: CircuitBreaker, told: list[bool]) -> None:
    """A server that refuses one command may still accept invalidations; nothing is read from it."""
    assert breaker.record_refusal("READONLY")
    assert not breaker.record_refusal("READONLY")
    assert breaker.is_open
    assert not breaker.is_closed
    assert breaker.allows_invalidations
    assert breaker.record_failure("hung", is_attempt=False) is False
    assert not breaker.allows_invalidations, "a server that hangs costs nobody else a timeout"
    assert breaker.record_refusal("READONLY"), "who refuses anew is noticed anew"
    assert told == [False, True]


def test_a_failure_while_half_open_keeps_it_open(breaker: CircuitBreaker) -> None:
    """A command failed while reads were still held back; the next attempt decides."""
    breaker.record_refusal("READONLY")
    breaker.half_open()
    breaker.record_refusal("READONLY")
    assert not breaker.close()
    assert breaker.is_open


class Server:
    """A server that a recovery asks; it works unless it is told otherwise."""

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
        """Be told of keys."""
        self.half_open_sent.append(self.breaker._is_half_open)
        self.sent += keys  # type: ignore[arg-type]  # a list of keys

    def attempt(self) -> bool:
        """Be asked."""
        self.attempts += 1
        if self.is_down:
            self.breaker.record_failure("hung", is_attempt=True)
            return False
        self.outbox.flush(cast(KeyScripts, self))
        return True


@pytest.fixture
def server(breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server behind the breaker, asked in quick succession."""
    monkeypatch.setattr(breaker_module, "Backoff", partial(Backoff, first_seconds=0.001, max_seconds=0.01))
    server = Server(breaker)
    yield server
    server.recovery.close()


def test_the_background_flushes_and_closes(server: Server, breaker: CircuitBreaker, told: list[bool]) -> None:
    """The recovery thread does both without a caller, and ends."""
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
    assert told == [False, True, False]
    wait_until(lambda: server.recovery._thread is None, "the thread ends")


def test_a_change_between_is_sent_before_it_closes(server: Server, breaker: CircuitBreaker) -> None:
    """An invalidation that failed while reads were held back is sent before the first read."""
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


def test_a_failed_attempt_of_any_kind_is_not_the_last(
    server: Server, breaker: CircuitBreaker, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the thread Redis would never be used again."""
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


def test_a_closed_recovery_starts_no_thread(server: Server) -> None:
    """The last attempt of an ending process is not made by this thread."""
    server.recovery.close()
    server.recovery.start()
    assert server.recovery._thread is None
