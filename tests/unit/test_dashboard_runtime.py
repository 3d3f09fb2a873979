"""`ShortCache`, the cache of a few seconds that all views share."""

import pytest

from dashboard.runtime import ShortCache


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        """Return the seconds that the test has set."""
        return self.seconds


def test_a_value_is_loaded_again_after_its_time_to_live() -> None:
    """A value is served until its time to live ends, and each key has a value of its own."""
    clock = Clock()
    cache = ShortCache(seconds=5, clock=clock)
    values = iter(["first", "other", "second"])
    assert cache.get_or_load("a", lambda: next(values)) == "first"
    assert cache.get_or_load("b", lambda: next(values)) == "other"
    clock.seconds = 4.9
    assert cache.get_or_load("a", lambda: next(values)) == "first"
    clock.seconds = 5.0
    assert cache.get_or_load("a", lambda: next(values)) == "second"


def test_the_age_of_a_value_begins_at_the_start_of_its_load() -> None:
    """A value is as old as the start of its load, because writes during the load may be missing in it."""
    clock = Clock()
    cache = ShortCache(seconds=5, clock=clock)

    def read_slowly() -> str:
        clock.seconds = 6.0
        return "old"

    cache.get_or_load("a", read_slowly)
    assert cache.get_or_load("a", lambda: "new") == "new"


def test_a_slow_load_does_not_replace_a_newer_value() -> None:
    """Of two loads at the same time, the load that began later sets the cached value."""
    clock = Clock()
    cache = ShortCache(seconds=5, clock=clock)

    def read_slowly() -> str:
        clock.seconds = 3.0
        assert cache.get_or_load("a", lambda: "new") == "new"
        return "old"

    assert cache.get_or_load("a", read_slowly) == "old"
    assert cache.get_or_load("a", lambda: "newest") == "new"


def test_an_error_is_not_cached() -> None:
    """After a load that failed, the next read loads again."""
    cache = ShortCache(seconds=5)

    def fail() -> str:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        cache.get_or_load("a", fail)
    assert cache.get_or_load("a", lambda: "there again") == "there again"


def test_the_least_recently_used_entry_is_evicted() -> None:
    """At most `entries` values are kept, the least recently used is evicted, and `clear` removes all."""
    cache = ShortCache(seconds=5, entries=2, clock=Clock())
    for key in ("a", "b", "a", "c"):
        cache.get_or_load(key, lambda: "old")
    found = {key: cache.get_or_load(key, lambda: "new") for key in ("a", "c", "b")}
    assert found == {"a": "old", "c": "old", "b": "new"}
    cache.clear()
    assert cache.get_or_load("b", lambda: "newer") == "newer"
