"""What Redis has to be told of: nothing is forgotten, and nobody reads past a payment."""

import threading
from collections.abc import Sequence
from typing import cast

import pytest

from core.cache import outbox as module
from core.cache.outbox import LATE_SECONDS, InvalidationOutbox, KeyScripts, KeysRefused


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
        self.outbox = InvalidationOutbox(clock=lambda: self.now)

    def flush(self) -> None:
        """Let the outbox send everything."""
        self.outbox.flush(cast(KeyScripts, self))

    def release(self, keys: Sequence[str], token: bytes) -> None:
        """Drop keys."""
        if self.is_down:
            raise ConnectionError
        refused = [key for key in keys if key in self.refused]
        paid = tuple(key for key in keys if key not in self.refused)
        self.paid += [(paid, token)] if paid else []
        if refused:
            raise KeysRefused(refused) from PermissionError(refused[0])

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
    ledger.outbox.add(["k", "other"], b"F1")
    ledger.outbox.add(["k"], b"F2")
    ledger.outbox.add(["k"], b"")
    ledger.flush()
    [(keys, tokens)] = ledger.paid
    assert keys == ("k", "other")
    assert tokens in (b"F1F2", b"F2F1"), "in one round trip"
    assert len(ledger.outbox) == 0
    assert not ledger.outbox.is_pending


def test_a_failed_payment_stays_owed(ledger: Ledger) -> None:
    """It is made again."""
    ledger.is_down = True
    ledger.outbox.add(["k"], b"")
    with pytest.raises(ConnectionError):
        ledger.flush()
    assert len(ledger.outbox) == 1
    ledger.is_down = False
    ledger.flush()
    assert ledger.paid == [(("k",), b"")]


def test_a_refused_key_does_not_block_the_others(ledger: Ledger) -> None:
    """Keys with the same token and with others are paid; the refused key stays owed, with the reason."""
    ledger.refused = {"refused"}
    ledger.outbox.add(["a", "refused", "b"], b"F1")
    ledger.outbox.add(["c"], b"F2")
    with pytest.raises(KeysRefused) as caught:
        ledger.flush()
    assert isinstance(caught.value.__cause__, PermissionError)
    assert [keys for keys, _ in ledger.paid] == [("a", "b", "c")]
    assert len(ledger.outbox) == 1
    ledger.refused.clear()
    ledger.flush()
    assert ledger.paid[1:] == [(("refused",), b"F1")]
    assert len(ledger.outbox) == 0


def test_nobody_reads_past_a_payment_of_all(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one thread drops every key, another that is about to read drops them too."""
    monkeypatch.setattr(module, "OUTBOX_LIMIT", 1)
    ledger.outbox.add(["a", "b"], b"")
    ledger.hold = threading.Event()
    slow = threading.Thread(target=ledger.flush)
    slow.start()
    assert ledger.held.wait(10)
    assert len(ledger.outbox) == 1, "not paid yet, so still owed"
    ledger.hold.set()
    slow.join(10)
    assert len(ledger.outbox) == 0
    assert ledger.all_paid == 1


def test_a_late_fence_is_released_again(ledger: Ledger) -> None:
    """A fence that was not confirmed may come after its release, which is then made once more."""
    ledger.outbox.add(["k"], b"F1")
    ledger.outbox.expect_late(["k"], b"F1")
    assert not ledger.outbox.add_late(), "the first release has to come first"
    ledger.flush()
    assert not ledger.outbox.add_late(), "the fence may still be on its way"
    assert ledger.outbox.is_pending
    ledger.now += LATE_SECONDS
    assert ledger.outbox.add_late()
    ledger.flush()
    assert ledger.paid == [(("k",), b"F1")] * 2
    assert not ledger.outbox.is_pending


def test_much_is_paid_in_portions(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage of an hour is paid a thousand keys at a time, and a failed attempt asks for no more."""
    monkeypatch.setattr(module, "PORTION_KEYS", 3)
    ledger.outbox.add([f"k{number}" for number in range(7)], b"F1")
    ledger.flush()
    assert [len(keys) for keys, _ in ledger.paid] == [3, 3, 1]
    assert (len(ledger.outbox), ledger.outbox._waiting_count) == (0, 0)


def test_refused_keys_do_not_hide_those_behind_them(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are refused, one attempt reaches every other key."""
    monkeypatch.setattr(module, "PORTION_KEYS", 2)
    ledger.refused = {"a", "b", "c"}
    ledger.outbox.add(["a", "b", "c", "d", "e"], b"F1")
    with pytest.raises(KeysRefused):
        ledger.flush()
    assert [keys for keys, _ in ledger.paid] == [("d",), ("e",)]
    assert list(ledger.outbox._waiting) == ["a", "b", "c"]


def test_what_is_owed_anew_while_it_is_paid_stays(ledger: Ledger) -> None:
    """Another writer of the key owes it after the payment was sent, which did not cover that write."""
    outbox = ledger.outbox
    ledger.release = lambda *_: outbox.add(["k"], b"F1")  # type: ignore[method-assign]
    outbox.add(["k", "other"], b"F1")
    ledger.flush()
    assert (list(outbox._waiting), outbox._waiting_count) == (["k"], 1)


def test_the_tokens_of_one_key_are_bounded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version key that is written all through an outage does not collect tokens without end."""
    monkeypatch.setattr(module, "OUTBOX_LIMIT", 10)
    for number in range(11):
        ledger.outbox.add(["version"], b"F%d" % number)
    ledger.flush()
    assert (ledger.all_paid, ledger.paid, len(ledger.outbox)) == (1, [], 0)
