"""The invalidation outbox: it keeps every key until Redis has dropped it, and is flushed before a read."""

import threading
from collections.abc import Sequence
from typing import cast

import pytest

from core.cache import outbox as module
from core.cache.outbox import LATE_SECONDS, InvalidationOutbox, KeyScripts, KeysRefused


class FakeRedis:
    """A Redis that records the sent keys, and can fail, refuse keys, or block."""

    def __init__(self) -> None:
        self.sent: list[tuple[tuple[str, ...], bytes]] = []
        self.all_sent = 0
        self.is_down = False
        self.refused: set[str] = set()
        self.hold: threading.Event | None = None
        self.held = threading.Event()
        self.now = 100.0
        self.outbox = InvalidationOutbox(clock=lambda: self.now)

    def flush(self) -> None:
        """Flush the outbox to this server."""
        self.outbox.flush(cast(KeyScripts, self))

    def release(self, keys: Sequence[str], token: bytes) -> None:
        """Record the keys and their fence tokens, except refused keys."""
        if self.is_down:
            raise ConnectionError
        refused = [key for key in keys if key in self.refused]
        sent = tuple(key for key in keys if key not in self.refused)
        self.sent += [(sent, token)] if sent else []
        if refused:
            raise KeysRefused(refused) from PermissionError(refused[0])

    def release_all(self) -> None:
        """Count one removal of all keys; block before it while `hold` is set."""
        if self.hold is not None:
            self.held.set()
            assert self.hold.wait(10)
        if self.is_down:
            raise ConnectionError
        self.all_sent += 1


@pytest.fixture
def server() -> FakeRedis:
    """Return a Redis that accepts everything."""
    return FakeRedis()


def test_the_fences_of_all_writers_are_released(server: FakeRedis) -> None:
    """A key that two writers have fenced is sent with both tokens, so no fence stays until it expires."""
    server.outbox.add(["k", "other"], b"F1")
    server.outbox.add(["k"], b"F2")
    server.outbox.add(["k"], b"")
    server.flush()
    [(keys, tokens)] = server.sent
    assert keys == ("k", "other")
    assert tokens in (b"F1F2", b"F2F1"), "in one round trip"
    assert len(server.outbox) == 0
    assert not server.outbox.is_pending


def test_a_failed_flush_keeps_its_keys(server: FakeRedis) -> None:
    """The keys of a failed flush are sent again."""
    server.is_down = True
    server.outbox.add(["k"], b"")
    with pytest.raises(ConnectionError):
        server.flush()
    assert len(server.outbox) == 1
    server.is_down = False
    server.flush()
    assert server.sent == [(("k",), b"")]


def test_a_refused_key_does_not_block_the_others(server: FakeRedis) -> None:
    """All keys except the refused one are sent; the refused key stays, and the error has the reason."""
    server.refused = {"refused"}
    server.outbox.add(["a", "refused", "b"], b"F1")
    server.outbox.add(["c"], b"F2")
    with pytest.raises(KeysRefused) as caught:
        server.flush()
    assert isinstance(caught.value.__cause__, PermissionError)
    assert [keys for keys, _ in server.sent] == [("a", "b", "c")]
    assert len(server.outbox) == 1
    server.refused.clear()
    server.flush()
    assert server.sent[1:] == [(("refused",), b"F1")]
    assert len(server.outbox) == 0


def test_all_keys_stay_pending_until_they_are_dropped(
    server: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When one thread drops all keys of a full outbox, its entries stay pending until Redis has answered."""
    monkeypatch.setattr(module, "OUTBOX_LIMIT", 1)
    server.outbox.add(["a", "b"], b"")
    server.hold = threading.Event()
    flusher = threading.Thread(target=server.flush)
    flusher.start()
    assert server.held.wait(10)
    assert len(server.outbox) == 1, "not sent yet, so still pending"
    server.hold.set()
    flusher.join(10)
    assert len(server.outbox) == 0
    assert server.all_sent == 1


def test_a_late_fence_is_released_again(server: FakeRedis) -> None:
    """A fence that Redis did not confirm may be set after its release, so it is released twice."""
    server.outbox.add(["k"], b"F1")
    server.outbox.record_unconfirmed_fence(["k"], b"F1")
    assert not server.outbox.add_unconfirmed_fences(), "the first release has to come first"
    server.flush()
    assert not server.outbox.add_unconfirmed_fences(), "the fence may still be on its way"
    assert server.outbox.is_pending
    server.now += LATE_SECONDS
    assert server.outbox.add_unconfirmed_fences()
    server.flush()
    assert server.sent == [(("k",), b"F1")] * 2
    assert not server.outbox.is_pending


def test_many_keys_are_sent_in_batches(server: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush sends PORTION_KEYS keys at a time, so a failure repeats at most one batch."""
    monkeypatch.setattr(module, "PORTION_KEYS", 3)
    server.outbox.add([f"k{number}" for number in range(7)], b"F1")
    server.flush()
    assert [len(keys) for keys, _ in server.sent] == [3, 3, 1]
    assert (len(server.outbox), server.outbox._waiting_count) == (0, 0)


def test_refused_keys_do_not_block_later_batches(server: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Redis refuses a whole batch, the same flush still sends the keys of the later batches."""
    monkeypatch.setattr(module, "PORTION_KEYS", 2)
    server.refused = {"a", "b", "c"}
    server.outbox.add(["a", "b", "c", "d", "e"], b"F1")
    with pytest.raises(KeysRefused):
        server.flush()
    assert [keys for keys, _ in server.sent] == [("d",), ("e",)]
    assert list(server.outbox._waiting) == ["a", "b", "c"]


def test_a_key_added_during_its_send_stays_pending(server: FakeRedis) -> None:
    """A key that a second writer adds while the key is being sent stays pending for the next flush."""
    outbox = server.outbox
    server.release = lambda *_: outbox.add(["k"], b"F1")  # type: ignore[method-assign]
    outbox.add(["k", "other"], b"F1")
    server.flush()
    assert (list(outbox._waiting), outbox._waiting_count) == (["k"], 1)


def test_the_tokens_of_one_key_are_bounded(server: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one key collects more tokens than OUTBOX_LIMIT, the flush drops all keys of Redis instead."""
    monkeypatch.setattr(module, "OUTBOX_LIMIT", 10)
    for number in range(11):
        server.outbox.add(["version"], b"F%d" % number)
    server.flush()
    assert (server.all_sent, server.sent, len(server.outbox)) == (1, [], 0)
