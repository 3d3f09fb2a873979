"""How far `stretch` extends a time bound on a loaded machine."""

import os

import pytest

from tests.patience import stretch


@pytest.mark.parametrize(
    ("load", "seconds"), [(0.1, 2.0), (4.0, 2.0), (6.0, 3.0), (16.0, 8.0), (17.0, 8.0), (400.0, 8.0)]
)
def test_a_bound_is_stretched_four_times_at_most(
    monkeypatch: pytest.MonkeyPatch, load: float, seconds: float
) -> None:
    """A time bound is multiplied by the load average per processor, at least by 1 and at most by 4."""
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert stretch(2.0) == pytest.approx(seconds)
