"""Bounds of time on a machine that does other things as well.

Owns how far a bound is stretched. A bound tells a promise that is kept from a wait without
end; how quick something is, `tests/bench` measures.
"""

import os


def stretch(seconds: float) -> float:
    """Return the time that a promise of so many seconds has while others want the processors too."""
    runnable_per_processor = os.getloadavg()[0] / (os.cpu_count() or 1)
    return seconds * max(1.0, runnable_per_processor)
