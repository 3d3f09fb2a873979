"""What the near cache serves and admits, and single-flight; no server is needed."""

import threading

import pytest

from core.cache.changes import ChangeLog, SingleFlight
from core.cache.near import NearCache


class Clock:
    """A clock that stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock of the test's own."""
    return Clock()


@pytest.fixture
def near(clock: Clock) -> NearCache:
    """A live near cache of three values that live five seconds."""
    tier = NearCache(ChangeLog(), max_entries=3, ttl_seconds=5, clock=clock)
    tier.open()
    return tier


def admit(near: NearCache, key: str, value: object, depends_on: tuple[str, ...] = ()) -> None:
    """Read a value from Redis, undisturbed."""
    ticket = near.begin_read()
    near.end_read(ticket, {key: value}, depends_on)


def test_serves_what_was_admitted_until_it_is_too_old(near: NearCache, clock: Clock) -> None:
    """A value is served until its time to live ends."""
    admit(near, "a", 1)
    clock.now += 4.9
    assert near.get("a") == 1
    clock.now += 0.1
    assert near.get("a") is None
    assert len(near) == 0


def test_refuses_a_value_that_a_message_overtook(near: NearCache) -> None:
    """A value that was read before a change, and stored after it, is refused."""
    ticket = near.begin_read()
    near.invalidate(["a"])
    near.end_read(ticket, {"a": "old"}, ())
    assert near.get("a") is None


def test_refuses_a_value_whose_version_changed_meanwhile(near: NearCache) -> None:
    """The same holds for a key that the value depends on."""
    ticket = near.begin_read()
    near.invalidate(["version"])
    near.end_read(ticket, {"board": "old"}, ("version",))
    assert near.get("board") is None


def test_a_second_read_may_store_what_the_first_may_not(near: NearCache) -> None:
    """Each read has its own ticket: only reads that began before the change are refused."""
    first = near.begin_read()
    near.invalidate(["a"])
    second = near.begin_read()
    near.end_read(second, {"a": "new"}, ())
    near.end_read(first, {"a": "old"}, ())
    assert near.get("a") == "new"


def test_drops_what_depends_on_a_key(near: NearCache) -> None:
    """All values under a version are dropped together, and others stay."""
    admit(near, "board:10", 1, ("version",))
    admit(near, "board:50", 2, ("version",))
    admit(near, "other", 3)
    near.invalidate(["version"])
    assert [near.get(key) for key in ("board:10", "board:50", "other")] == [None, None, 3]


def test_drops_what_depends_on_several_keys(near: NearCache) -> None:
    """A leaderboard depends on its scores and on the usernames, and is dropped when either changes."""
    admit(near, "board", 1, ("scores", "usernames"))
    near.invalidate(["scores", "usernames", "board"])
    assert near.get("board") is None
    admit(near, "board", 2, ("scores", "usernames"))
    near.invalidate(["usernames"])
    assert (near.get("board"), near._dependents) == (None, {})


def test_is_bounded_and_evicts_what_was_used_least(near: NearCache) -> None:
    """A fourth value evicts the least recently used one with all its index entries."""
    for key in "abc":
        admit(near, key, key, (f"version:{key}",))
    near.get("a")
    admit(near, "d", "d")
    assert [near.get(key) for key in "abcd"] == ["a", None, "c", "d"]
    assert set(near._dependents) == {"version:a", "version:c"}


def test_serves_nothing_while_it_is_shut(near: NearCache) -> None:
    """Without a feed nothing is served or admitted, and no earlier value is served later."""
    admit(near, "a", 1)
    ticket = near.begin_read()
    near.shut()
    assert near.get("a") is None
    near.end_read(ticket, {"b": 2}, ())
    admit(near, "c", 3)
    near.open()
    assert [near.get(key) for key in "abc"] == [None, None, None]


def test_a_read_from_before_a_reopening_is_refused(near: NearCache) -> None:
    """The feed did not report the changes in between."""
    ticket = near.begin_read()
    near.shut()
    near.open()
    near.end_read(ticket, {"a": "old"}, ())
    assert near.get("a") is None


def test_size_none_serves_nothing() -> None:
    """NEAR_CACHE_SIZE=0 turns the near cache off."""
    tier = NearCache(ChangeLog(), max_entries=0, ttl_seconds=5)
    tier.open()
    admit(tier, "a", 1)
    assert not tier.is_live
    assert tier.get("a") is None


def test_a_dropped_value_leaves_nothing_behind(near: NearCache) -> None:
    """The index forgets a value that was dropped by key, by version or with the feed."""
    for names in (["a"], ["version"], None):
        admit(near, "a", 1, ("version", "usernames"))
        if names is None:
            near.clear()
        else:
            near.invalidate(names)
        assert (len(near), near._dependents) == (0, {})


def test_what_was_cleared_is_freed_bit_by_bit(clock: Clock) -> None:
    """Clearing does not free all values in one step; each new value frees some."""
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


def test_threads_share_one_read() -> None:
    """Sixteen threads cause one load and get the same answer."""
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
    # a thread that came after the end reads for itself
    assert len(loads) <= 2


def test_without_a_feed_only_a_later_read_is_shared() -> None:
    """Threads that find a running read share one that begins after it."""
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
    assert answers.count(1) == 1, "only who began it got the first read"


def test_nobody_joins_a_read_from_before_a_change() -> None:
    """A reader after a write does not get a value from before it, also for a dependent key."""
    changes = ChangeLog()
    single_flight = SingleFlight(changes)
    begun, may_end = threading.Event(), threading.Event()

    def load_old() -> str:
        begun.set()
        assert may_end.wait(10)
        return "old"

    old: list[str] = []
    leader = threading.Thread(target=lambda: old.append(single_flight.do("board", ("version",), load_old)))
    leader.start()
    assert begun.wait(10)
    changes.record(["version"])
    assert single_flight.do("board", ("version",), lambda: "new") == "new"
    may_end.set()
    leader.join(10)
    assert old == ["old"]


def test_an_error_reaches_everyone_and_is_not_kept() -> None:
    """Every waiting thread gets the error; the next read calls the loader again."""
    single_flight = SingleFlight(ChangeLog())

    def fail() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError):
        single_flight.do("k", (), fail)
    assert single_flight.do("k", (), lambda: 1) == 1
