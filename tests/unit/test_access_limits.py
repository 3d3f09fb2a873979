"""How often somebody may do something."""

import pytest

from dashboard import access_limits
from dashboard.access_limits import RateLimit


class Clock:
    """A clock that stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self.now


def test_a_window_slides() -> None:
    """What is over the limit waits until the oldest event has left the window, and counts for nothing."""
    clock = Clock()
    limit = RateLimit(limit=2, seconds=60, clock=clock)
    assert limit.take("alice") == 0
    clock.now = 130
    assert limit.take("alice") == 0
    assert limit.take("alice") == 30
    clock.now = 160
    assert limit.take("alice") == 0
    assert limit.take("alice") == 30


def test_each_name_counts_for_itself() -> None:
    """One who acts too often holds up nobody else."""
    limit = RateLimit(limit=1, seconds=60, clock=Clock())
    assert limit.take("alice") == 0
    assert limit.take("alice") > 0
    assert limit.take("bob") == 0


def test_names_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more names than are remembered, the one seen longest ago is forgotten."""
    monkeypatch.setattr(access_limits, "REMEMBERED", 2)
    limit = RateLimit(limit=1, seconds=60, clock=Clock())
    for name in ("alice", "bob", "charlie"):
        assert limit.take(name) == 0
    assert limit.take("charlie") > 0
    assert limit.take("alice") == 0
