"""The checker itself: what it forbids, and what it knows to be allowed."""

import pytest

from tests.coherence.history import NEAR_BOUND_SECONDS, Event, Flushed, History, Read, Write

FIRST = Write(0, 0.0, 1.0, {"x": 1}, "acknowledged")
SECOND = Write(0, 2.0, 3.0, {"x": 2}, "acknowledged")
LATE = 3.0 + NEAR_BOUND_SECONDS


@pytest.mark.parametrize(
    ("event", "is_allowed"),
    [
        (Read(1, 3.1, 3.2, "shared", {"x": 2}), True),
        (Read(1, 3.1, 3.2, "shared", {"x": 1}), False),
        (Read(1, 2.9, 3.2, "shared", {"x": 1}), True),
        (Read(1, 2.1, 2.2, "shared", {"x": 2}), True),
        (Read(1, 1.1, 1.2, "shared", {"x": 2}), False),
        (Read(1, 3.1, 3.2, "shared", {"x": 3}), False),
        (Read(0, 3.1, 3.2, "near", {"x": 1}), False),
        (Read(1, LATE - 0.1, LATE, "near", {"x": 1}), True),
        (Read(1, LATE + 0.1, LATE + 0.2, "near", {"x": 1}), False),
    ],
)
def test_a_read_sees_what_was_acknowledged(event: Event, *, is_allowed: bool) -> None:
    """The bound is zero in the writing process and in Redis, and some time in other near caches."""
    assert (History([FIRST, SECOND, event]).find_violations() == []) is is_allowed


def test_what_was_rolled_back_is_never_seen() -> None:
    """A read of a version that was rolled back is a violation, at whatever moment it happens."""
    undone = Write(0, 2.0, 3.0, {"x": 2}, "refused")
    assert "rolled back" in History([FIRST, undone, Read(1, 2.5, 2.6, "near", {"x": 2})]).find_violations()[0]


def test_a_lost_answer_leaves_both_open() -> None:
    """After a lost answer of a COMMIT, a read may show the old or the new version."""
    unknown = Write(0, 2.0, 3.0, {"x": 2}, "unknown")
    reads = [Read(1, 4.0, 4.1, "shared", {"x": version}) for version in (1, 2)]
    assert History([FIRST, unknown, *reads]).find_violations() == []


@pytest.mark.parametrize(("start", "is_allowed"), [(3.5, True), (4.5, False)])
def test_a_debt_is_due_when_it_is_paid(start: float, *, is_allowed: bool) -> None:
    """Others may read what Redis has until the writer has told it, and no longer."""
    pending = SECOND._replace(is_pending=True)
    read = Read(1, start, start + 0.1, "shared", {"x": 1})
    assert (History([FIRST, pending, Flushed(0, 4.0), read]).find_violations() == []) is is_allowed
