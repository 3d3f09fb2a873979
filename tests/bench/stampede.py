"""The stampede: 64 threads read the same cold leaderboard at the same time.

Owns the threads and the count of loads.
"""

import threading
import time
from collections.abc import Mapping

from tests.bench.workloads import Stage

THREADS = 64
START_SECONDS = 60


def measure_stampede(stage: Stage) -> Mapping[str, float]:
    """Start all threads at once; return the seconds until the last answer, and the number of loads."""
    contender = stage.contender
    barrier = threading.Barrier(THREADS + 1)

    def ask() -> None:
        barrier.wait(START_SECONDS)
        contender.get_leaderboard()

    threads = [threading.Thread(target=ask) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    stage.empty_caches()
    loads = len(contender.loads)
    started = time.perf_counter()
    barrier.wait(START_SECONDS)
    for thread in threads:
        thread.join()
    return {"seconds": time.perf_counter() - started, "queries": len(contender.loads) - loads}
