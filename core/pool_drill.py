"""The fault of the pool drill: all connections of this process's pool are used, and more threads want one.

Only the hidden command `echo-markets occupy-pool` uses it; `core.stack.drills` runs that command.
"""

import threading

from core.errors import EchoMarketsError, PoolTimeout
from core.service import EnhancedDatabaseService

WAITING = 3
"""Threads beyond the limit: they wait, and give up after DATABASE_POOL_TIMEOUT."""


def occupy_pool(service: EnhancedDatabaseService, *, connections: int, stopping: threading.Event) -> None:
    """Hold every connection until `stopping` is set, while more threads want one."""
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
            # expected; retry at once, so that requests wait at any moment
            continue
        except EchoMarketsError:
            # without a database, avoid a tight loop
            stopping.wait(0.1)
