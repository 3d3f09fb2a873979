"""Time limits of tests on a machine that also runs other programs.

Owns how far a limit is extended under load: at most four times, so that a test can still fail on
the busiest machine. A limit only distinguishes success from an endless wait; `tests/bench`
measures speed.
"""

import os
import time
from collections.abc import Callable

from coverage import Coverage

MOST = 4.0
HEAL_SECONDS = 5.0
"""Time within which the product works again after the end of a fault."""
# Largest slowdown by coverage, which counts every line.
COVERAGE_FACTOR = 4.0


def stretch(seconds: float) -> float:
    """Return a time limit in seconds, extended by the present load of the machine."""
    runnable_per_processor = os.getloadavg()[0] / (os.cpu_count() or 1)
    return seconds * min(MOST, max(1.0, runnable_per_processor))


def stretch_processor(seconds: float) -> float:
    """Return a limit of CPU seconds, extended under coverage; other programs do not change CPU time."""
    return seconds * (COVERAGE_FACTOR if Coverage.current() is not None else 1)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = HEAL_SECONDS) -> float:
    """Return the seconds until the condition held; raises `AssertionError` when they are too many."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < stretch(seconds), f"not within {seconds:g} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - started
