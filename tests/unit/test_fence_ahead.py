"""`FenceAhead`: fences that a thread sets during a transaction, and fences still needed at its COMMIT."""

import threading
from collections.abc import Iterable
from typing import Any, cast

import pytest

from core.cache import NO_TOKEN, Cache, Fence
from core.service.fence_ahead import FRESH_SECONDS, MIN_KEYS_FENCED_AHEAD, FenceAhead, LazyKeys

MANY: list[str] = [f"portfolio:{number}" for number in range(MIN_KEYS_FENCED_AHEAD)]
ONE_MORE = "portfolio:more"


class FakeCache:
    """A cache that records fenced keys, and can fail or wait."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.is_broken = False

    def new_fence(self) -> bytes:
        """Return a fence token."""
        return b"token"

    def fence(self, keys: Iterable[str], token: bytes, *, is_awaited: bool) -> Fence:
        """Record the keys; return their fence."""
        assert is_awaited
        assert self.may_go_on.wait(10)
        if self.is_broken:
            raise MemoryError
        self.keys.extend(keys)
        return Fence(token)


@pytest.fixture
def cache() -> FakeCache:
    """Return a cache that neither fails nor waits."""
    return FakeCache()


def start_fences(cache: FakeCache, keys: list[str], **clock: Any) -> FenceAhead:
    """Return a started `FenceAhead` for these keys."""
    ahead = FenceAhead(cast(Cache, cache), keys, **clock)
    ahead.start()
    return ahead


def test_few_keys_are_fenced_only_at_the_commit(cache: FakeCache) -> None:
    """A few keys are left for the COMMIT, because starting a thread takes longer than fencing them."""
    ahead = start_fences(cache, MANY[1:])
    assert ahead.finish([ONE_MORE]) == [*MANY[1:], ONE_MORE]
    assert ahead.token == NO_TOKEN
    assert cache.keys == []
    assert ahead.cancel() == ()


def test_keys_added_later_are_fenced_at_the_commit(cache: FakeCache) -> None:
    """`finish` waits for the thread, and returns only the keys that the thread has not fenced."""
    cache.may_go_on.clear()
    ahead = start_fences(cache, MANY)
    threading.Timer(0.05, cache.may_go_on.set).start()
    assert ahead.finish([MANY[5], ONE_MORE]) == [ONE_MORE]
    assert cache.keys == MANY
    assert ahead.token == b"token"


def test_old_fences_are_set_again(cache: FakeCache) -> None:
    """Fences older than FRESH_SECONDS are set again, because they could expire before the COMMIT ends."""
    times = iter([0.0, FRESH_SECONDS + 0.1])
    ahead = start_fences(cache, MANY, clock=lambda: next(times))
    assert ahead.finish([ONE_MORE]) == [*MANY, ONE_MORE]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_fences_that_failed_are_set_again(cache: FakeCache) -> None:
    """If the thread has failed, `finish` returns all keys, so they are fenced before the COMMIT."""
    cache.is_broken = True
    ahead = start_fences(cache, MANY)
    assert ahead.finish([]) == MANY


def test_lazy_keys_are_built_once_by_the_thread(cache: FakeCache) -> None:
    """The keys of `LazyKeys` are built once, when the thread sets the fences."""
    builds: list[int] = []

    def build() -> list[str]:
        builds.append(len(builds))
        return MANY

    keys = LazyKeys(len(MANY), build)
    ahead = FenceAhead(cast(Cache, cache), keys)
    assert (len(keys), builds) == (MIN_KEYS_FENCED_AHEAD, [])
    ahead.start()
    assert ahead.finish([]) == []
    assert cache.keys == MANY
    assert (list(keys), keys[0], keys[:2], builds) == (MANY, MANY[0], MANY[:2], [0])


def test_a_rollback_returns_the_fenced_keys(cache: FakeCache) -> None:
    """`cancel` returns every fenced key, so that the rollback can release the fences."""
    ahead = start_fences(cache, MANY)
    assert ahead.cancel() == MANY
    assert cache.keys == MANY
