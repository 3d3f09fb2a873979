"""What Redis has to be told of: nothing is forgotten, and nobody reads past a payment."""

import threading
from collections.abc import Sequence

import pytest

from core.cache import debts as module
from core.cache.debts import Debts


class Ledger:
    """What was paid, by a Redis that can be made to fail or to take its time."""

    def __init__(self) -> None:
        self.paid: list[tuple[tuple[str, ...], bytes]] = []
        self.all_paid = 0
        self.is_down = False
        self.hold: threading.Event | None = None
        self.held = threading.Event()
        self.debts = Debts(release=self.release, release_all=self.release_all, pay=self.pay)

    def release(self, keys: Sequence[str], token: bytes) -> None:
        """Drop keys."""
        if self.is_down:
            raise ConnectionError
        self.paid.append((tuple(keys), token))

    def release_all(self) -> None:
        """Drop every key."""
        if self.hold is not None:
            self.held.set()
            assert self.hold.wait(10)
        if self.is_down:
            raise ConnectionError
        self.all_paid += 1

    def pay(self) -> None:
        """Settle, as the shared tier does."""
        try:
            self.debts.settle()
        except ConnectionError:
            return


@pytest.fixture
def ledger() -> Ledger:
    """A Redis that works."""
    return Ledger()


def test_each_writers_fence_is_released(ledger: Ledger) -> None:
    """Two writers of one key owe it once each: neither fence may stay until it expires."""
    ledger.debts.owe(["k"], b"F1")
    ledger.debts.owe(["k"], b"F2")
    ledger.debts.settle()
    assert sorted(ledger.paid) == [(("k",), b"F1"), (("k",), b"F2")]
    assert len(ledger.debts) == 0


def test_what_fails_stays_owed(ledger: Ledger) -> None:
    """A payment that fails is made again."""
    ledger.is_down = True
    ledger.debts.owe(["k"], b"")
    with pytest.raises(ConnectionError):
        ledger.debts.settle()
    assert len(ledger.debts) == 1
    ledger.is_down = False
    ledger.debts.settle()
    assert ledger.paid == [(("k",), b"")]


def test_nobody_reads_past_a_payment_of_all(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one thread drops every key, another that is about to read drops them too."""
    monkeypatch.setattr(module, "OWED_LIMIT", 1)
    ledger.debts.owe(["a", "b"], b"")
    ledger.hold = threading.Event()
    slow = threading.Thread(target=ledger.debts.settle)
    slow.start()
    assert ledger.held.wait(10)
    assert len(ledger.debts) == 1, "not paid yet, so still owed"
    ledger.hold.set()
    slow.join(10)
    assert len(ledger.debts) == 0
    assert ledger.all_paid == 1


def test_an_idle_process_pays(ledger: Ledger) -> None:
    """The background thread tries until Redis answers, and ends."""
    ledger.is_down = True
    ledger.debts.owe(["k"], b"")
    ledger.debts.settle_in_background()
    thread = ledger.debts._payer
    assert thread is not None
    ledger.is_down = False
    thread.join(10)
    assert not thread.is_alive()
    assert len(ledger.debts) == 0


def test_closing_tries_once_more(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be paid then is named in the log."""
    ledger.is_down = True
    ledger.debts.owe(["k"], b"")
    ledger.debts.close()
    assert "1 keys are stale in redis until they expire" in caplog.text


def test_a_late_fence_is_released_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fence that was not confirmed may come after its release, which is then made once more."""
    monkeypatch.setattr(module, "LATE_SECONDS", 0.0)
    ledger.is_down = True
    ledger.debts.owe(["k"], b"F1")
    ledger.debts.expect_late(["k"], b"F1")
    thread = ledger.debts._payer
    assert thread is not None
    ledger.is_down = False
    thread.join(10)
    assert not thread.is_alive()
    assert ledger.paid == [(("k",), b"F1")] * 2
