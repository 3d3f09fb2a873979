"""What Redis has to be told of: nothing is forgotten, and nobody reads past a payment."""

import threading
from collections.abc import Sequence

import pytest

from core.cache import debts as module
from core.cache.debts import LATE_SECONDS, Debts, Unpaid


class Ledger:
    """What was paid, by a Redis that can be made to fail, to refuse keys or to take its time."""

    def __init__(self) -> None:
        self.paid: list[tuple[tuple[str, ...], bytes]] = []
        self.all_paid = 0
        self.is_down = False
        self.refused: set[str] = set()
        self.hold: threading.Event | None = None
        self.held = threading.Event()
        self.now = 100.0
        self.debts = Debts(release=self.release, release_all=self.release_all, clock=lambda: self.now)

    def release(self, keys: Sequence[str], token: bytes) -> None:
        """Drop keys."""
        if self.is_down:
            raise ConnectionError
        refused = [key for key in keys if key in self.refused]
        paid = tuple(key for key in keys if key not in self.refused)
        self.paid += [(paid, token)] if paid else []
        if refused:
            raise Unpaid(refused) from PermissionError(refused[0])

    def release_all(self) -> None:
        """Drop every key."""
        if self.hold is not None:
            self.held.set()
            assert self.hold.wait(10)
        if self.is_down:
            raise ConnectionError
        self.all_paid += 1


@pytest.fixture
def ledger() -> Ledger:
    """A Redis that works."""
    return Ledger()


def test_each_writers_fence_is_released(ledger: Ledger) -> None:
    """Two writers of one key owe it once each: neither fence may stay until it expires."""
    ledger.debts.owe(["k", "other"], b"F1")
    ledger.debts.owe(["k"], b"F2")
    ledger.debts.owe(["k"], b"")
    ledger.debts.settle()
    [(keys, tokens)] = ledger.paid
    assert keys == ("k", "other")
    assert tokens in (b"F1F2", b"F2F1"), "in one round trip"
    assert len(ledger.debts) == 0
    assert not ledger.debts.is_pending


def test_a_failed_payment_stays_owed(ledger: Ledger) -> None:
    """It is made again."""
    ledger.is_down = True
    ledger.debts.owe(["k"], b"")
    with pytest.raises(ConnectionError):
        ledger.debts.settle()
    assert len(ledger.debts) == 1
    ledger.is_down = False
    ledger.debts.settle()
    assert ledger.paid == [(("k",), b"")]


def test_a_refused_key_does_not_block_the_others(ledger: Ledger) -> None:
    """Keys with the same token and with others are paid; the refused key stays owed, with the reason."""
    ledger.refused = {"refused"}
    ledger.debts.owe(["a", "refused", "b"], b"F1")
    ledger.debts.owe(["c"], b"F2")
    with pytest.raises(Unpaid) as caught:
        ledger.debts.settle()
    assert isinstance(caught.value.__cause__, PermissionError)
    assert [keys for keys, _ in ledger.paid] == [("a", "b", "c")]
    assert len(ledger.debts) == 1
    ledger.refused.clear()
    ledger.debts.settle()
    assert ledger.paid[1:] == [(("refused",), b"F1")]
    assert len(ledger.debts) == 0


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


def test_a_late_fence_is_released_again(ledger: Ledger) -> None:
    """A fence that was not confirmed may come after its release, which is then made once more."""
    ledger.debts.owe(["k"], b"F1")
    ledger.debts.expect_late(["k"], b"F1")
    assert not ledger.debts.owe_late(), "the first release has to come first"
    ledger.debts.settle()
    assert not ledger.debts.owe_late(), "the fence may still be on its way"
    assert ledger.debts.is_pending
    ledger.now += LATE_SECONDS
    assert ledger.debts.owe_late()
    ledger.debts.settle()
    assert ledger.paid == [(("k",), b"F1")] * 2
    assert not ledger.debts.is_pending


def test_much_is_paid_in_portions(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage of an hour is paid a thousand keys at a time, and a failed attempt asks for no more."""
    monkeypatch.setattr(module, "PORTION_KEYS", 3)
    ledger.debts.owe([f"k{number}" for number in range(7)], b"F1")
    ledger.debts.settle()
    assert [len(keys) for keys, _ in ledger.paid] == [3, 3, 1]
    assert (len(ledger.debts), ledger.debts._owed_count) == (0, 0)


def test_refused_keys_do_not_hide_those_behind_them(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are refused, one attempt reaches every other key."""
    monkeypatch.setattr(module, "PORTION_KEYS", 2)
    ledger.refused = {"a", "b", "c"}
    ledger.debts.owe(["a", "b", "c", "d", "e"], b"F1")
    with pytest.raises(Unpaid):
        ledger.debts.settle()
    assert [keys for keys, _ in ledger.paid] == [("d",), ("e",)]
    assert list(ledger.debts._owed) == ["a", "b", "c"]


def test_what_is_owed_anew_while_it_is_paid_stays(ledger: Ledger) -> None:
    """Another writer of the key owes it after the payment was sent, which did not cover that write."""
    debts = Debts(release=lambda *_: debts.owe(["k"], b"F1"), release_all=ledger.release_all)
    debts.owe(["k", "other"], b"F1")
    debts.settle()
    assert (list(debts._owed), debts._owed_count) == (["k"], 1)


def test_the_tokens_of_one_key_are_bounded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version key that is written all through an outage does not collect tokens without end."""
    monkeypatch.setattr(module, "OWED_LIMIT", 10)
    for number in range(11):
        ledger.debts.owe(["version"], b"F%d" % number)
    ledger.debts.settle()
    assert (ledger.all_paid, ledger.paid, len(ledger.debts)) == (1, [], 0)
