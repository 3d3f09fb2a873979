"""`ChangeLog`, with which a read learns of changes since it began, and the caches that use it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.cache.change_log import ChangeLog
from core.cache.near import Entries, FailSafeValues

NAMES = [f"k{number}" for number in range(8)]
STEPS: st.SearchStrategy[tuple[str, list[str]]] = st.one_of(
    st.tuples(st.just("ticket"), st.just([])),
    st.tuples(st.just("record"), st.lists(st.sampled_from(NAMES), max_size=6)),
    st.tuples(st.just("record all"), st.just([])),
)


def test_a_change_is_seen_by_reads_that_began_before_it() -> None:
    """A ticket lists the keys that changed after it was taken, and no others."""
    changes = ChangeLog()
    before = changes.take_ticket()
    changes.record(["a", "b"])
    after = changes.take_ticket()
    assert list(changes.list_changed(before, ("a", "c"))) == ["a"]
    assert list(changes.list_changed(after, ("a", "c"))) == []
    changes.record(["c"])
    assert list(changes.list_changed(after, ("a", "c"))) == ["c"]


@given(st.lists(STEPS, max_size=40))
def test_no_change_is_ever_missed(steps: list[tuple[str, list[str]]]) -> None:
    """A ticket lists at least every key that changed after it was taken, although the log forgets names."""
    changes = ChangeLog(remembered_names=2)
    tickets: list[tuple[int, set[str]]] = []
    for step, names in steps:
        if step == "ticket":
            tickets.append((changes.take_ticket(), set()))
        elif step == "record":
            changes.record(names)
        else:
            changes.record_all()
        for _, changed in tickets:
            changed.update(NAMES if step == "record all" else names)
        for ticket, changed in tickets:
            assert changed <= set(changes.list_changed(ticket, NAMES))


@given(st.lists(st.sampled_from(NAMES), max_size=30))
def test_remembered_changes_are_exact(names: list[str]) -> None:
    """While the log remembers every name, a ticket lists exactly the keys that changed after it was taken."""
    changes = ChangeLog(remembered_names=len(NAMES))
    for number, name in enumerate(names):
        ticket = changes.take_ticket()
        changes.record([name])
        changes.record(names[:number])
        assert set(changes.list_changed(ticket, NAMES)) == {name, *names[:number]}
        assert list(changes.list_changed(changes.take_ticket(), NAMES)) == []


def test_the_number_of_names_is_bounded() -> None:
    """The log remembers a bounded number of names; a ticket that is too old lists every name as changed."""
    changes = ChangeLog(remembered_names=10)
    ticket = changes.take_ticket()
    for number in range(1_000):
        changes.record([f"n{number}"])
    assert len(changes._known.older) + len(changes._known.younger) <= 22
    assert list(changes.list_changed(ticket, ("other",))) == ["other"], "the ticket is too old"


def test_record_all_changes_every_name() -> None:
    """A ticket from before `record_all` lists every name as changed, also after later changes."""
    changes = ChangeLog()
    changes.record(["a"])
    ticket = changes.take_ticket()
    changes.record_all()
    for _ in range(3):
        assert list(changes.list_changed(ticket, ("b",))) == ["b"]
        changes.record(["a"])


@pytest.mark.parametrize("changed", ["key", "version"])
def test_a_value_changed_during_its_read_is_not_stored(changed: str) -> None:
    """A value is not stored if its key, or a key that it depends on, changed during the read."""
    changes = ChangeLog()
    entries = Entries(changes, max_entries=10, ttl_seconds=10)
    ticket = changes.take_ticket()
    changes.record([changed])
    entries.put(ticket, {"key": "old", "other": 1}, ("version",))
    assert entries.get("key") is None
    assert entries.get("other") == (None if changed == "version" else 1)


def test_a_fail_safe_value_depends_only_on_its_keys() -> None:
    """A fail-safe value is stored after a change of another key, but not after a change of its own keys."""
    fail_safe = FailSafeValues(max_entries=10, seconds=100)
    ticket = fail_safe.take_ticket()
    fail_safe.invalidate(["other"])
    fail_safe.remember(ticket, {"key": "value"}, ("version",))
    assert fail_safe.recall("key") == "value"
    for names in (["key"], ["version"]):
        ticket = fail_safe.take_ticket()
        fail_safe.invalidate(names)
        fail_safe.remember(ticket, {"key": "old"}, ("version",))
        assert fail_safe.recall("key") is None


def test_a_fail_safe_value_has_an_age() -> None:
    """`age_seconds` is the age of the oldest fail-safe value since the read began; old values are dropped."""
    now = [100.0]
    fail_safe = FailSafeValues(max_entries=10, seconds=60, clock=lambda: now[0])
    fail_safe.remember(fail_safe.take_ticket(), {"a": 1}, ())
    now[0] += 20
    fail_safe.remember(fail_safe.take_ticket(), {"b": 2}, ())
    now[0] += 5
    fail_safe.begin_read()
    assert fail_safe.age_seconds is None
    assert (fail_safe.recall("b"), fail_safe.age_seconds) == (2, 5)
    assert (fail_safe.recall("a"), fail_safe.age_seconds) == (1, 25)
    now[0] += 40
    assert fail_safe.recall("a") is None


@pytest.mark.parametrize(("max_entries", "seconds"), [(0, 10.0), (10, 0.0)])
def test_fail_safe_values_can_be_switched_off(max_entries: int, seconds: float) -> None:
    """With CACHE_FAILSAFE=0 or NEAR_CACHE_SIZE=0 no fail-safe value is stored."""
    fail_safe = FailSafeValues(max_entries=max_entries, seconds=seconds)
    fail_safe.remember(fail_safe.take_ticket(), {"a": 1}, ())
    assert fail_safe.recall("a") is None
