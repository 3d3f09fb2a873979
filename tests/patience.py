"""Bounds of time on a machine that does other things as well.

Owns how far a bound is stretched: at most four times, so that a promise can still be broken on
the busiest machine. A bound tells a promise that is kept from a wait without end; how quick
something is, `tests/bench` measures.
"""

import os

from coverage import Coverage

MOST = 4.0
# What counting every line costs at most.
COVERAGE_FACTOR = 4.0


def stretch(seconds: float) -> float:
    """Return the time that a promise of so many seconds has while others want the processors too."""
    runnable_per_processor = os.getloadavg()[0] / (os.cpu_count() or 1)
    return seconds * min(MOST, max(1.0, runnable_per_processor))


def stretch_processor(seconds: float) -> float:
    """Return the processor time that a promise has, which coverage lengthens and other programs do not."""
    return seconds * (COVERAGE_FACTOR if Coverage.current() is not None else 1)
