"""No operation of the cache, the pool or the metrics does more because there is more of anything."""

import statistics
from collections.abc import Callable

import pytest

from tests.bench.growth import OPERATIONS, Trial
from tests.steps import count_steps, measure_peak

SMALL, LARGE = 1_000, 10_000
# The interpreter's own noise: a dictionary that grows, a caught exception. A scan of the larger
# size is ten times what one of the smaller size is.
STEPS_RATIO = 1.05
PEAK_BYTES = 2_000


def measure(trial: Trial, figure: Callable[[Callable[[], object]], int]) -> float:
    """Return the median figure of an operation's calls."""
    return statistics.median(figure(lambda number=number: trial.act(number)) for number in range(trial.calls))  # type: ignore[misc]  # bound at once


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_takes_the_same_steps(name: str) -> None:
    """With ten times as many entries it executes as many instructions and copies nothing."""
    small, large = (OPERATIONS[name](size) for size in (SMALL, LARGE))
    assert measure(large, count_steps) <= measure(small, count_steps) * STEPS_RATIO
    for trial in (small, large):
        trial.restore()
    assert measure(large, measure_peak) <= measure(small, measure_peak) + PEAK_BYTES


def test_a_scan_is_seen() -> None:
    """A scan is noticed in Python code and inside a built-in function."""
    few, many = list(range(SMALL)), list(range(LARGE))

    def scan(numbers: list[int]) -> list[int]:
        return [number for number in numbers if number < 0]

    assert count_steps(lambda: scan(many)) > 5 * count_steps(lambda: scan(few))
    assert measure_peak(lambda: dict.fromkeys(many)) > measure_peak(lambda: dict.fromkeys(few)) + PEAK_BYTES
