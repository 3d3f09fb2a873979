"""The fault of the pool drill: this process holds all connections of its pool, and more threads wait.

Only the hidden command `echo-markets occupy-pool` uses this module; `core.stack.drills` runs that command.
"""

import threading

from core.errors import EchoMarketsError, PoolTimeout
from core.service import EnhancedDatabaseService

WAITING = 3
"""Number of threads beyond the limit: they wait for a connection until DATABASE_POOL_TIMEOUT."""


def occupy_pool(service: EnhancedDatabaseService, *, connections: int, stopping: threading.Event) -> None:
    """Hold every connection until `stopping` is set, while WAITING more threads wait for one."""
    threads = [
        threading.Thread(target=_occupy, args=(service, stopping), name=f"occupier-{number}")
        for number in range(connections + WAITING)
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
            # expected; retry immediately, so that there are always waiting requests
            continue
        except EchoMarketsError:
            # avoid a tight loop while the database is unavailable
            stopping.wait(0.1)
