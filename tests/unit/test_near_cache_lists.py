"""Lists of keys that are read again and again: served as a whole, and never longer than each value is."""

from itertools import islice, permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.cache.changes import ChangeLog
from core.cache.codec import ABSENT
from core.cache.near import KEPT_RESULTS, MIN_KEPT_KEYS, NearCache
from tests.unit.test_near_cache import Clock, admit

KEYS = tuple(f"k{number}" for number in range(MIN_KEPT_KEYS))
OTHERS = tuple(f"k{number}" for number in range(1, MIN_KEPT_KEYS + 1))
TTL_SECONDS = 5.0


@pytest.fixture
def clock() -> Clock:
    """A clock of the test's own."""
    return Clock()


@pytest.fixture
def near(clock: Clock) -> NearCache:
    """A live near cache that has all values of the list but none of it as a whole."""
    tier = NearCache(ChangeLog(), max_entries=MIN_KEPT_KEYS + 2, ttl_seconds=TTL_SECONDS, clock=clock)
    tier.open()
    for number, key in enumerate(KEYS):
        admit(tier, key, number)
    return tier


def make_whole(near: NearCache, keys: tuple[str, ...] = KEYS) -> None:
    """Read a list until it is kept."""
    for _ in range(2):
        assert near.find_result(keys) is None
        assert len(near.get_many(keys)) == len(keys)
    assert near.find_result(keys) is not None


def test_a_list_is_kept_from_its_second_look_on(near: NearCache) -> None:
    """It has the order of the keys, without absent rows."""
    admit(near, KEYS[1], ABSENT)
    make_whole(near)
    assert near.find_result(KEYS) == {key: number for number, key in enumerate(KEYS) if number != 1}


@pytest.mark.parametrize("key", [KEYS[0], KEYS[-1]])
def test_a_change_of_one_value_ends_it(near: NearCache, key: str) -> None:
    """The next list contains the changed value."""
    make_whole(near)
    near.invalidate([key])
    assert near.find_result(KEYS) is None
    admit(near, key, "new")
    make_whole(near)
    assert (near.find_result(KEYS) or {})[key] == "new"


def test_a_change_of_what_a_value_depends_on_ends_it(near: NearCache) -> None:
    """The change is known only by the version key."""
    admit(near, KEYS[2], "board", ("version",))
    make_whole(near)
    near.invalidate(["version"])
    assert near.find_result(KEYS) is None


def test_a_list_with_an_evicted_value_is_not_kept(near: NearCache) -> None:
    """The feed reports nothing about a value that the near cache does not have."""
    make_whole(near)
    for number in range(3):
        admit(near, f"other{number}", number)
    near.invalidate(KEYS)
    assert near.find_result(KEYS) is None


def test_it_is_as_old_as_its_oldest_value(near: NearCache, clock: Clock) -> None:
    """A value that was read later does not extend the time to live of the list."""
    clock.now += 1
    admit(near, KEYS[3], "later")
    make_whole(near)
    clock.now += TTL_SECONDS - 1.1
    assert near.find_result(KEYS) is not None
    clock.now += 0.2
    assert near.find_result(KEYS) is None


@pytest.mark.parametrize("end", [NearCache.shut, NearCache.clear, NearCache.open])
def test_it_ends_with_the_feed(near: NearCache, end: Any) -> None:
    """This holds when the feed is cut, flushed, forked or started again."""
    make_whole(near)
    end(near)
    assert near.find_result(KEYS) is None


def test_lists_are_bounded(near: NearCache) -> None:
    """The oldest lists are dropped, however many different ones are read."""
    orders = list(islice(permutations(KEYS), 2 * KEPT_RESULTS))
    for keys in orders:
        make_whole(near, keys)
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
def test_a_list_is_what_its_values_are(steps: list[tuple[str, str]]) -> None:
    """Whatever happens in between, a list equals its values read one by one."""
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
