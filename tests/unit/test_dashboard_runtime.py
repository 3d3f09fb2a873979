"""The cache of a few seconds that views share."""

import pytest

from dashboard.runtime import ShortCache


class Clock:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        """Return what it shows."""
        return self.seconds


def test_an_answer_is_read_again_when_its_time_is_over() -> None:
    """Within this time the answer is kept; different keys have different answers."""
    clock = Clock()
    cache = ShortCache(seconds=5, clock=clock)
    answers = iter(["first", "other", "second"])
    assert cache.get_or_load("a", lambda: next(answers)) == "first"
    assert cache.get_or_load("b", lambda: next(answers)) == "other"
    clock.seconds = 4.9
    assert cache.get_or_load("a", lambda: next(answers)) == "first"
    clock.seconds = 5.0
    assert cache.get_or_load("a", lambda: next(answers)) == "second"


def test_an_answer_is_as_old_as_its_question() -> None:
    """The answer counts as old as the start of its read, because later writes may be missing from it."""
    clock = Clock()
    cache = ShortCache(seconds=5, clock=clock)

    def read_slowly() -> str:
        clock.seconds = 6.0
        return "old"

    cache.get_or_load("a", read_slowly)
    assert cache.get_or_load("a", lambda: "new") == "new"


def test_a_slow_answer_does_not_replace_a_newer_one() -> None:
    """Of two reads at the same time, the one that began later decides the cached answer."""
    clock = Clock()
    cache = ShortCache(seconds=5, clock=clock)

    def read_slowly() -> str:
        clock.seconds = 3.0
        assert cache.get_or_load("a", lambda: "new") == "new"
        return "old"

    assert cache.get_or_load("a", read_slowly) == "old"
    assert cache.get_or_load("a", lambda: "newest") == "new"


def test_trouble_is_not_kept() -> None:
    """An error is not cached: the next view reads again."""
    cache = ShortCache(seconds=5)

    def fail() -> str:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        cache.get_or_load("a", fail)
    assert cache.get_or_load("a", lambda: "there again") == "there again"


def test_the_least_recently_used_entry_is_evicted() -> None:
    """The number of entries is bounded; `clear` removes all."""
    cache = ShortCache(seconds=5, entries=2, clock=Clock())
    for question in ("a", "b", "a", "c"):
        cache.get_or_load(question, lambda: "old")
    found = {question: cache.get_or_load(question, lambda: "new") for question in ("a", "c", "b")}
    assert found == {"a": "old", "c": "old", "b": "new"}
    cache.clear()
    assert cache.get_or_load("b", lambda: "newer") == "newer"
