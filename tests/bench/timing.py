"""Times two ways of doing the same thing, side by side.

Owns the clock and the arithmetic. Calls of both ways alternate, so that whatever
else the machine does falls on both alike.
"""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

WARM_UP_CALLS = 20
QUANTILES = 100


class Comparison(NamedTuple):
    """Seconds that one operation took through the service and through the bare driver."""

    name: str
    median_seconds: float
    p95_seconds: float
    bare_median_seconds: float
    rows: int = 0

    @property
    def ratio(self) -> float:
        """How many times as long the service takes."""
        return self.median_seconds / self.bare_median_seconds


def compare(name: str, ours: Callable[[], object], bare: Callable[[], object], *, calls: int) -> Comparison:
    """Measure two short operations, alternating."""
    for _ in range(WARM_UP_CALLS):
        ours()
        bare()
    pairs = [(time_call(ours), time_call(bare)) for _ in range(calls)]
    ours_seconds, bare_seconds = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return Comparison(
        name,
        median_seconds=statistics.median(ours_seconds),
        p95_seconds=statistics.quantiles(ours_seconds, n=QUANTILES)[94],
        bare_median_seconds=statistics.median(bare_seconds),
    )


def time_call(operation: Callable[[], object]) -> float:
    """Return the seconds that one call takes."""
    started = time.perf_counter()
    operation()
    return time.perf_counter() - started
