"""Which reads `History.find_violations` reports, and which stale reads it allows."""

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
def test_only_allowed_versions_are_no_violation(event: Event, *, is_allowed: bool) -> None:
    """A stale read is allowed only in another process's near cache, for 2.5 s after the write."""
    assert (History([FIRST, SECOND, event]).find_violations() == []) is is_allowed


def test_a_read_of_a_rolled_back_version_is_a_violation() -> None:
    """A read that shows a rolled-back version is a violation, even while the transaction runs."""
    undone = Write(0, 2.0, 3.0, {"x": 2}, "refused")
    assert "rolled back" in History([FIRST, undone, Read(1, 2.5, 2.6, "near", {"x": 2})]).find_violations()[0]


def test_a_lost_commit_reply_allows_both_versions() -> None:
    """When the reply to a COMMIT is lost, a read may show the old or the new version."""
    unknown = Write(0, 2.0, 3.0, {"x": 2}, "unknown")
    reads = [Read(1, 4.0, 4.1, "shared", {"x": version}) for version in (1, 2)]
    assert History([FIRST, unknown, *reads]).find_violations() == []


@pytest.mark.parametrize(("start", "is_allowed"), [(3.5, True), (4.5, False)])
def test_a_pending_invalidation_allows_old_reads(start: float, *, is_allowed: bool) -> None:
    """While a writer's invalidation is pending, other processes may read the old version from Redis."""
    pending = SECOND._replace(is_pending=True)
    read = Read(1, start, start + 0.1, "shared", {"x": 1})
    assert (History([FIRST, pending, Flushed(0, 4.0), read]).find_violations() == []) is is_allowed
