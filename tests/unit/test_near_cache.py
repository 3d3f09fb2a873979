"""The near cache and single-flight, without a server."""

import threading

import pytest

from core.cache.change_log import ChangeLog
from core.cache.near import NearCache
from core.cache.single_flight import SingleFlight


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        """Return the current time of this clock."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return a clock for one test."""
    return Clock()


@pytest.fixture
def near(clock: Clock) -> NearCache:
    """Return an open near cache for three values with a time to live of five seconds."""
    tier = NearCache(ChangeLog(), max_entries=3, ttl_seconds=5, clock=clock)
    tier.open()
    return tier


def admit(near: NearCache, key: str, value: object, depends_on: tuple[str, ...] = ()) -> None:
    """Store a value that was read from Redis while nothing was invalidated."""
    ticket = near.begin_read()
    near.end_read(ticket, {key: value}, depends_on)


def test_a_value_is_served_until_its_time_to_live_ends(near: NearCache, clock: Clock) -> None:
    """A value is served for five seconds and then removed."""
    admit(near, "a", 1)
    clock.now += 4.9
    assert near.get("a") == 1
    clock.now += 0.1
    assert near.get("a") is None
    assert len(near) == 0


def test_a_value_read_before_an_invalidation_is_refused(near: NearCache) -> None:
    """A value whose key was invalidated during its read is not stored."""
    ticket = near.begin_read()
    near.invalidate(["a"])
    near.end_read(ticket, {"a": "old"}, ())
    assert near.get("a") is None


def test_a_value_read_before_a_version_change_is_refused(near: NearCache) -> None:
    """A value is not stored if a key that it depends on was invalidated during its read."""
    ticket = near.begin_read()
    near.invalidate(["version"])
    near.end_read(ticket, {"leaderboard": "old"}, ("version",))
    assert near.get("leaderboard") is None


def test_a_later_read_may_store_its_value(near: NearCache) -> None:
    """A read that began after an invalidation may store its value, an earlier read may not."""
    first = near.begin_read()
    near.invalidate(["a"])
    second = near.begin_read()
    near.end_read(second, {"a": "new"}, ())
    near.end_read(first, {"a": "old"}, ())
    assert near.get("a") == "new"


def test_values_that_depend_on_a_key_are_dropped(near: NearCache) -> None:
    """An invalidated version key drops every value that depends on it, and no other value."""
    admit(near, "leaderboard:10", 1, ("version",))
    admit(near, "leaderboard:50", 2, ("version",))
    admit(near, "other", 3)
    near.invalidate(["version"])
    assert [near.get(key) for key in ("leaderboard:10", "leaderboard:50", "other")] == [None, None, 3]


def test_a_value_that_depends_on_several_keys_is_dropped(near: NearCache) -> None:
    """A leaderboard depends on scores and on usernames, and either of the two keys drops it."""
    admit(near, "leaderboard", 1, ("scores", "usernames"))
    near.invalidate(["scores", "usernames", "leaderboard"])
    assert near.get("leaderboard") is None
    admit(near, "leaderboard", 2, ("scores", "usernames"))
    near.invalidate(["usernames"])
    assert (near.get("leaderboard"), near._dependents) == (None, {})


def test_the_least_recently_used_value_is_evicted(near: NearCache) -> None:
    """A fourth value evicts the least recently used value and its index entries."""
    for key in "abc":
        admit(near, key, key, (f"version:{key}",))
    near.get("a")
    admit(near, "d", "d")
    assert [near.get(key) for key in "abcd"] == ["a", None, "c", "d"]
    assert set(near._dependents) == {"version:a", "version:c"}


def test_a_shut_near_cache_serves_and_stores_nothing(near: NearCache) -> None:
    """A near cache without a feed serves and stores nothing, and earlier values do not come back."""
    admit(near, "a", 1)
    ticket = near.begin_read()
    near.shut()
    assert near.get("a") is None
    near.end_read(ticket, {"b": 2}, ())
    admit(near, "c", 3)
    near.open()
    assert [near.get(key) for key in "abc"] == [None, None, None]


def test_a_value_read_before_a_reopening_is_refused(near: NearCache) -> None:
    """A value read before the feed was interrupted is not stored: the feed missed later changes."""
    ticket = near.begin_read()
    near.shut()
    near.open()
    near.end_read(ticket, {"a": "old"}, ())
    assert near.get("a") is None


def test_size_zero_turns_the_near_cache_off() -> None:
    """With NEAR_CACHE_SIZE=0 the near cache stores nothing."""
    tier = NearCache(ChangeLog(), max_entries=0, ttl_seconds=5)
    tier.open()
    admit(tier, "a", 1)
    assert not tier.is_live
    assert tier.get("a") is None


def test_a_dropped_value_leaves_no_index_entries(near: NearCache) -> None:
    """A value that was dropped by its key, by a version or by `clear` has no index entries left."""
    for names in (["a"], ["version"], None):
        admit(near, "a", 1, ("version", "usernames"))
        if names is None:
            near.clear()
        else:
            near.invalidate(names)
        assert (len(near), near._dependents) == (0, {})


def test_cleared_values_are_freed_step_by_step(clock: Clock) -> None:
    """`clear` does not free all values at once; each later value that is stored frees some of them."""
    near = NearCache(ChangeLog(), max_entries=100, ttl_seconds=5, clock=clock)
    near.open()
    for number in range(20):
        admit(near, f"old{number}", number, ("version",))
    near.clear()
    near.clear()
    assert near.get("old3") is None
    assert len(near) == 0
    for number in range(10):
        assert near._cleared, "some are left"
        admit(near, f"new{number}", number, ("version",))
    assert not near._cleared
    near.invalidate(["version"])
    assert len(near) == 0


def test_threads_share_one_load() -> None:
    """Sixteen threads that need a key while its load runs share the value of that load."""
    single_flight, loads = SingleFlight(ChangeLog()), []
    begun, may_end = threading.Event(), threading.Event()

    def load() -> str:
        loads.append(1)
        begun.set()
        assert may_end.wait(10)
        return "value"

    answers: list[str] = []
    leader = threading.Thread(target=lambda: answers.append(single_flight.do("k", (), load)))
    leader.start()
    assert begun.wait(10)
    joined = [
        threading.Thread(target=lambda: answers.append(single_flight.do("k", (), load))) for _ in range(15)
    ]
    for thread in joined:
        thread.start()
    may_end.set()
    for thread in (leader, *joined):
        thread.join(10)
    assert answers == ["value"] * 16
    # a thread that comes after the end of the first load starts a second load
    assert len(loads) <= 2


def test_without_a_feed_only_a_later_load_is_shared() -> None:
    """Threads that find a running load do not use its value, but share a load that begins later."""
    single_flight, versions = SingleFlight(ChangeLog()), iter(range(1, 100))
    begun, may_end = threading.Event(), threading.Event()

    def load() -> int:
        version = next(versions)
        begun.set()
        assert may_end.wait(10)
        return version

    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(single_flight.do_next("k", load))) for _ in range(16)
    ]
    threads[0].start()
    assert begun.wait(10)
    for thread in threads[1:]:
        thread.start()
    may_end.set()
    for thread in threads:
        thread.join(10)
    assert len(answers) == 16
    assert answers.count(1) == 1, "only the thread that began the first load got its value"


def test_a_load_from_before_a_change_is_not_joined() -> None:
    """A reader does not join a load that began before a change of a key that the value depends on."""
    changes = ChangeLog()
    single_flight = SingleFlight(changes)
    begun, may_end = threading.Event(), threading.Event()

    def load_old() -> str:
        begun.set()
        assert may_end.wait(10)
        return "old"

    old: list[str] = []
    leader = threading.Thread(
        target=lambda: old.append(single_flight.do("leaderboard", ("version",), load_old))
    )
    leader.start()
    assert begun.wait(10)
    changes.record(["version"])
    assert single_flight.do("leaderboard", ("version",), lambda: "new") == "new"
    may_end.set()
    leader.join(10)
    assert old == ["old"]


def test_an_error_of_a_load_is_not_cached() -> None:
    """The error of a load reaches the caller, and the next read loads again."""
    single_flight = SingleFlight(ChangeLog())

    def fail() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError):
        single_flight.do("k", (), fail)
    assert single_flight.do("k", (), lambda: 1) == 1
