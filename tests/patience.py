"""Time limits of tests, which are longer on a busy machine.

Owns the factor by which a limit is extended under load: at most 4, so that a test can still fail on the
busiest machine. A limit only distinguishes success from an endless wait; `tests/bench` measures speed.
"""

import os
import time
from collections.abc import Callable

from coverage import Coverage

# Largest factor by which a limit is extended.
MAX_FACTOR = 4.0
HEAL_SECONDS = 5.0
"""Time within which the service must work again after the end of a fault."""
# Largest slowdown by coverage measurement, which traces every line.
COVERAGE_FACTOR = 4.0


def stretch(seconds: float) -> float:
    """Return a time limit in seconds, extended by the present load of the machine."""
    runnable_per_processor = os.getloadavg()[0] / (os.cpu_count() or 1)
    return seconds * min(MAX_FACTOR, max(1.0, runnable_per_processor))


def stretch_processor(seconds: float) -> float:
    """Return a limit of CPU seconds, extended under coverage; other programs do not change CPU time."""
    return seconds * (COVERAGE_FACTOR if Coverage.current() is not None else 1)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = HEAL_SECONDS) -> float:
    """Wait until the condition holds and return the seconds; raise `AssertionError` after the time limit."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < stretch(seconds), f"not within {seconds:g} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - started
