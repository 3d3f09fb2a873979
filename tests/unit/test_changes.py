"""The order of changes and the values that follow them; no server is needed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.cache.changes import Changes
from core.cache.entries import Entries
from core.cache.last_known import LastKnown

NAMES = [f"k{number}" for number in range(8)]
STEPS: st.SearchStrategy[tuple[str, list[str]]] = st.one_of(
    st.tuples(st.just("ticket"), st.just([])),
    st.tuples(st.just("note"), st.lists(st.sampled_from(NAMES), max_size=6)),
    st.tuples(st.just("note all"), st.just([])),
)


def test_a_change_is_seen_by_reads_that_began_before_it() -> None:
    """And by no other, whatever else changed."""
    changes = Changes()
    before = changes.take_ticket()
    changes.note(["a", "b"])
    after = changes.take_ticket()
    assert list(changes.list_changed(before, ("a", "c"))) == ["a"]
    assert list(changes.list_changed(after, ("a", "c"))) == []
    changes.note(["c"])
    assert list(changes.list_changed(after, ("a", "c"))) == ["c"]


@given(st.lists(STEPS, max_size=40))
def test_no_change_is_ever_missed(steps: list[tuple[str, list[str]]]) -> None:
    """However little is remembered: each ticket is told all that changed since, and never too little."""
    changes = Changes(remembered_names=2)
    tickets: list[tuple[int, set[str]]] = []
    for step, names in steps:
        if step == "ticket":
            tickets.append((changes.take_ticket(), set()))
        elif step == "note":
            changes.note(names)
        else:
            changes.note_all()
        for _, changed in tickets:
            changed.update(NAMES if step == "note all" else names)
        for ticket, changed in tickets:
            assert changed <= set(changes.list_changed(ticket, NAMES))


@given(st.lists(st.sampled_from(NAMES), max_size=30))
def test_what_is_remembered_is_exact(names: list[str]) -> None:
    """A read is told of nothing that did not change since, as long as the changes are remembered."""
    changes = Changes(remembered_names=len(NAMES))
    for number, name in enumerate(names):
        ticket = changes.take_ticket()
        changes.note([name])
        changes.note(names[:number])
        assert set(changes.list_changed(ticket, NAMES)) == {name, *names[:number]}
        assert list(changes.list_changed(changes.take_ticket(), NAMES)) == []


def test_names_are_bounded() -> None:
    """A process that changes a million keys remembers the last ones alone."""
    changes = Changes(remembered_names=10)
    ticket = changes.take_ticket()
    for number in range(1_000):
        changes.note([f"n{number}"])
    assert len(changes._known.older) + len(changes._known.younger) <= 22
    assert list(changes.list_changed(ticket, ("other",))) == ["other"], "it is not known any more"


def test_a_number_never_comes_back() -> None:
    """A ticket from before a fork or a flush is told that everything changed, whatever follows."""
    changes = Changes()
    changes.note(["a"])
    ticket = changes.take_ticket()
    changes.reset_after_fork()
    for _ in range(3):
        assert list(changes.list_changed(ticket, ("b",))) == ["b"]
        changes.note(["a"])


@pytest.mark.parametrize("changed", ["key", "version"])
def test_a_value_is_not_kept_past_a_change(changed: str) -> None:
    """Of its key or of what it depends on, while it was read."""
    changes = Changes()
    entries = Entries(changes, max_entries=10, ttl_seconds=10)
    ticket = changes.take_ticket()
    changes.note([changed])
    entries.put(ticket, {"key": "old", "other": 1}, ("version",))
    assert entries.get("key") is None
    assert entries.get("other") == (None if changed == "version" else 1)


def test_a_fail_safe_value_survives_changes_of_others() -> None:
    """A busy process remembers what it reads although it writes other keys all the time."""
    last_known = LastKnown(max_entries=10, seconds=100)
    ticket = last_known.begin()
    last_known.forget(["other"])
    last_known.remember(ticket, {"key": "value"}, ("version",))
    assert last_known.recall("key") == "value"
    for names in (["key"], ["version"]):
        ticket = last_known.begin()
        last_known.forget(names)
        last_known.remember(ticket, {"key": "old"}, ("version",))
        assert last_known.recall("key") is None


def test_a_fail_safe_value_has_an_age() -> None:
    """It is of the oldest value that the thread was given since it began."""
    now = [100.0]
    last_known = LastKnown(max_entries=10, seconds=60, clock=lambda: now[0])
    last_known.remember(last_known.begin(), {"a": 1}, ())
    now[0] += 20
    last_known.remember(last_known.begin(), {"b": 2}, ())
    now[0] += 5
    last_known.begin()
    assert last_known.age_seconds is None
    assert (last_known.recall("b"), last_known.age_seconds) == (2, 5)
    assert (last_known.recall("a"), last_known.age_seconds) == (1, 25)
    now[0] += 40
    assert last_known.recall("a") is None


@pytest.mark.parametrize(("max_entries", "seconds"), [(0, 10.0), (10, 0.0)])
def test_fail_safe_values_can_be_switched_off(max_entries: int, seconds: float) -> None:
    """CACHE_FAILSAFE=0 or NEAR_CACHE_SIZE=0 keep nothing."""
    last_known = LastKnown(max_entries=max_entries, seconds=seconds)
    last_known.remember(last_known.begin(), {"a": 1}, ())
    assert last_known.recall("a") is None
