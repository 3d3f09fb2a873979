"""Operations of the cache, the pool and the metrics have the same cost for 1,000 and 10,000 entries."""

import statistics
from collections.abc import Callable

import pytest

from tests.bench.growth import OPERATIONS, Trial
from tests.steps import count_steps, measure_peak

SMALL, LARGE = 1_000, 10_000
# Allowed differences: a dictionary that grows, or a caught exception, adds a few steps and bytes. A scan
# would multiply the steps by ten.
STEPS_RATIO = 1.05
PEAK_BYTES = 2_000


def measure(trial: Trial, measure_call: Callable[[Callable[[], object]], int]) -> float:
    """Return the median of a measurement over all calls of an operation."""
    return statistics.median(
        measure_call(lambda number=number: trial.act(number))  # type: ignore[misc]  # bound at once
        for number in range(trial.calls)
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_takes_the_same_steps(name: str) -> None:
    """With ten times as many entries, an operation runs as many steps and allocates no more memory."""
    small, large = (OPERATIONS[name](size) for size in (SMALL, LARGE))
    assert measure(large, count_steps) <= measure(small, count_steps) * STEPS_RATIO
    for trial in (small, large):
        trial.restore()
    assert measure(large, measure_peak) <= measure(small, measure_peak) + PEAK_BYTES


def test_a_scan_is_detected() -> None:
    """A scan in Python adds steps, and a copy in a built-in function adds memory."""
    few, many = list(range(SMALL)), list(range(LARGE))

    def scan(numbers: list[int]) -> list[int]:
        return [number for number in numbers if number < 0]

    assert count_steps(lambda: scan(many)) > 5 * count_steps(lambda: scan(few))
    assert measure_peak(lambda: dict.fromkeys(many)) > measure_peak(lambda: dict.fromkeys(few)) + PEAK_BYTES
