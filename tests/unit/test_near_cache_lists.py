"""The near cache keeps the result of a repeated `get_many` until a value is invalidated or expires."""

from itertools import islice, permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.cache.change_log import ChangeLog
from core.cache.codec import ABSENT
from core.cache.near import KEPT_RESULTS, MIN_KEPT_KEYS, NearCache
from tests.unit.test_near_cache import Clock, admit

KEYS = tuple(f"k{number}" for number in range(MIN_KEPT_KEYS))
OTHERS = tuple(f"k{number}" for number in range(1, MIN_KEPT_KEYS + 1))
TTL_SECONDS = 5.0


@pytest.fixture
def clock() -> Clock:
    """Return a clock that only the test moves."""
    return Clock()


@pytest.fixture
def near(clock: Clock) -> NearCache:
    """Return an open near cache with the values of all KEYS, and no kept result."""
    tier = NearCache(ChangeLog(), max_entries=MIN_KEPT_KEYS + 2, ttl_seconds=TTL_SECONDS, clock=clock)
    tier.open()
    for number, key in enumerate(KEYS):
        admit(tier, key, number)
    return tier


def read_until_kept(near: NearCache, keys: tuple[str, ...] = KEYS) -> None:
    """Read the list of keys twice, after which the near cache keeps the result."""
    for _ in range(2):
        assert near.find_result(keys) is None
        assert len(near.get_many(keys)) == len(keys)
    assert near.find_result(keys) is not None


def test_a_result_is_kept_from_the_second_read_on(near: NearCache) -> None:
    """From the second read on, a result is kept, in the order of the keys and without absent rows."""
    admit(near, KEYS[1], ABSENT)
    read_until_kept(near)
    assert near.find_result(KEYS) == {key: number for number, key in enumerate(KEYS) if number != 1}


@pytest.mark.parametrize("key", [KEYS[0], KEYS[-1]])
def test_an_invalidated_key_drops_the_result(near: NearCache, key: str) -> None:
    """The invalidation of one key drops the kept result; the next result has the new value."""
    read_until_kept(near)
    near.invalidate([key])
    assert near.find_result(KEYS) is None
    admit(near, key, "new")
    read_until_kept(near)
    assert (near.find_result(KEYS) or {})[key] == "new"


def test_an_invalidated_version_key_drops_the_result(near: NearCache) -> None:
    """The invalidation of a version key drops every kept result with a value that depends on this key."""
    admit(near, KEYS[2], "value", ("version",))
    read_until_kept(near)
    near.invalidate(["version"])
    assert near.find_result(KEYS) is None


def test_an_evicted_value_drops_the_result(near: NearCache) -> None:
    """An eviction drops the kept result, because a later invalidation does not find the evicted value."""
    read_until_kept(near)
    for number in range(3):
        admit(near, f"other{number}", number)
    near.invalidate(KEYS)
    assert near.find_result(KEYS) is None


def test_a_result_expires_with_its_oldest_value(near: NearCache, clock: Clock) -> None:
    """A kept result expires with its oldest value, although another value was read one second later."""
    clock.now += 1
    admit(near, KEYS[3], "later")
    read_until_kept(near)
    clock.now += TTL_SECONDS - 1.1
    assert near.find_result(KEYS) is not None
    clock.now += 0.2
    assert near.find_result(KEYS) is None


@pytest.mark.parametrize("end", [NearCache.shut, NearCache.clear, NearCache.open])
def test_results_end_with_the_invalidation_feed(near: NearCache, end: Any) -> None:
    """No kept result is returned after `shut`, `clear` and a second `open` of the near cache."""
    read_until_kept(near)
    end(near)
    assert near.find_result(KEYS) is None


def test_the_number_of_kept_results_is_bounded(near: NearCache) -> None:
    """At most KEPT_RESULTS results are kept: the oldest ones are dropped."""
    orders = list(islice(permutations(KEYS), 2 * KEPT_RESULTS))
    for keys in orders:
        read_until_kept(near, keys)
    assert len(near._results) == KEPT_RESULTS
    assert near.find_result(orders[-1]) is not None
    assert near.find_result(orders[0]) is None


STEPS = st.one_of(
    st.tuples(st.just("admit"), st.sampled_from((*KEYS, *OTHERS))),
    st.tuples(st.just("change"), st.sampled_from((*KEYS, *OTHERS, "version"))),
    st.tuples(st.just("wait"), st.just("")),
    st.tuples(st.just("read"), st.just("")),
)


@given(st.lists(STEPS, max_size=60))
def test_a_result_equals_its_single_values(steps: list[tuple[str, str]]) -> None:
    """After any sequence of writes, invalidations and waits, a kept result equals its values read singly."""
    clock = Clock()
    near = NearCache(ChangeLog(), max_entries=MIN_KEPT_KEYS + 1, ttl_seconds=TTL_SECONDS, clock=clock)
    near.open()
    for number, key in enumerate(KEYS):
        admit(near, key, number)
    for number, (step, key) in enumerate(steps, 100):
        if step == "admit":
            admit(near, key, number, ("version",) if number % 2 else ())
        elif step == "change":
            near.invalidate([key])
        elif step == "wait":
            clock.now += 0.9
        for keys in (KEYS, OTHERS):
            whole = near.find_result(keys)
            if whole is not None:
                assert whole == {key: near.get(key) for key in keys}
            near.get_many(keys)
