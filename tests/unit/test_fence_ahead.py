"""Fences of many keys while the statements run: who has one, and who needs one at the end."""

import threading
from collections.abc import Iterable
from typing import Any, cast

import pytest

from core.cache import NO_TOKEN, Cache, Fence
from core.service.fence_ahead import FRESH_SECONDS, MIN_KEYS_FENCED_AHEAD, FenceAhead, LazyKeys

MANY: list[str] = [f"portfolio:{number}" for number in range(MIN_KEYS_FENCED_AHEAD)]
ONE_MORE = "portfolio:more"


class Fences:
    """A cache that notes its fences, and can be made to fail or to wait."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.is_broken = False

    def new_fence(self) -> bytes:
        """Return a token."""
        return b"token"

    def fence(self, keys: Iterable[str], token: bytes, *, is_awaited: bool) -> Fence:
        """Fence keys."""
        assert is_awaited
        assert self.may_go_on.wait(10)
        if self.is_broken:
            raise MemoryError
        self.keys.extend(keys)
        return Fence(token)


@pytest.fixture
def fences() -> Fences:
    """A cache that works."""
    return Fences()


def ahead_of(fences: Fences, keys: list[str], **clock: Any) -> FenceAhead:
    """Return the fences of a transaction, begun."""
    ahead = FenceAhead(cast(Cache, fences), keys, **clock)
    ahead.start()
    return ahead


def test_a_few_keys_are_left_to_the_end(fences: Fences) -> None:
    """Starting a thread takes longer than fencing a few keys."""
    ahead = ahead_of(fences, MANY[1:])
    assert ahead.finish([ONE_MORE]) == [*MANY[1:], ONE_MORE]
    assert ahead.token == NO_TOKEN
    assert fences.keys == []
    assert ahead.cancel() == ()


def test_what_came_later_is_still_to_be_fenced(fences: Fences) -> None:
    """The end waits for the thread, and fences only the keys that were added later."""
    fences.may_go_on.clear()
    ahead = ahead_of(fences, MANY)
    threading.Timer(0.05, fences.may_go_on.set).start()
    assert ahead.finish([MANY[5], ONE_MORE]) == [ONE_MORE]
    assert fences.keys == MANY
    assert ahead.token == b"token"


def test_old_fences_are_set_again(fences: Fences) -> None:
    """A fence that expired before the COMMIT ended would protect nothing."""
    times = iter([0.0, FRESH_SECONDS + 0.1])
    ahead = ahead_of(fences, MANY, clock=lambda: next(times))
    assert ahead.finish([ONE_MORE]) == [*MANY, ONE_MORE]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_fences_that_failed_are_set_again(fences: Fences) -> None:
    """If the thread failed for any reason, the keys are fenced again before the COMMIT."""
    fences.is_broken = True
    ahead = ahead_of(fences, MANY)
    assert ahead.finish([]) == MANY


def test_keys_are_named_while_the_statements_run(fences: Fences) -> None:
    """The keys are built once, when the fences begin."""
    named: list[int] = []

    def name() -> list[str]:
        named.append(len(named))
        return MANY

    keys = LazyKeys(len(MANY), name)
    ahead = FenceAhead(cast(Cache, fences), keys)
    assert (len(keys), named) == (MIN_KEYS_FENCED_AHEAD, [])
    ahead.start()
    assert ahead.finish([]) == []
    assert fences.keys == MANY
    assert (list(keys), keys[0], keys[:2], named) == (MANY, MANY[0], MANY[:2], [0])


def test_a_rollback_knows_what_it_fenced(fences: Fences) -> None:
    """After a rollback every key that was fenced is released."""
    ahead = ahead_of(fences, MANY)
    assert ahead.cancel() == MANY
    assert fences.keys == MANY
