"""The stampede: 64 threads read the same cold leaderboard at the same time."""

import threading
import time
from collections.abc import Mapping

from tests.bench.workloads import Stage

THREADS = 64
START_SECONDS = 60


def measure_stampede(stage: Stage) -> Mapping[str, float]:
    """Start all threads at once; return the seconds until the last has read, and the number of loads."""
    contender = stage.contender
    barrier = threading.Barrier(THREADS + 1)

    def read() -> None:
        barrier.wait(START_SECONDS)
        contender.get_leaderboard()

    threads = [threading.Thread(target=read) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    stage.empty_caches()
    loads = len(contender.loads)
    started = time.perf_counter()
    barrier.wait(START_SECONDS)
    for thread in threads:
        thread.join()
    return {"seconds": time.perf_counter() - started, "queries": len(contender.loads) - loads}
