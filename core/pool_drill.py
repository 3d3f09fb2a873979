"""Causes the fault of the pool drill: holds every connection of a pool, while more threads wait for one.

`core.stack.drills` starts it in a process of its own, by the hidden command `echo-markets occupy-pool`.
"""

import threading

from core.errors import EchoMarketsError, PoolTimeout
from core.service import EnhancedDatabaseService

WAITING_THREADS = 3
"""The number of threads that wait for a connection, each until DATABASE_POOL_TIMEOUT."""


def occupy_pool(service: EnhancedDatabaseService, *, connections: int, stopping: threading.Event) -> None:
    """Hold all `connections` of the pool until `stopping` is set, while WAITING_THREADS more threads wait."""
    threads = [
        threading.Thread(target=_occupy, args=(service, stopping), name=f"occupier-{number}")
        for number in range(connections + WAITING_THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _occupy(service: EnhancedDatabaseService, stopping: threading.Event) -> None:
    while not stopping.is_set():
        try:
            with service.transaction():
                service.list_session_dates(limit=1)
                stopping.wait()
        except PoolTimeout:
            # the timeout is expected: request a connection again, so that a request is always pending
            continue
        except EchoMarketsError:
            # the database is unavailable: pause, to avoid a busy loop
            stopping.wait(0.1)
