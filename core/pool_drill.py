"""Uses up the pool of this process, for drills: the effect of operations that hold connections too long.

Goes through the service, so that its metrics are those of any caller.
"""

import logging
import threading

from core.errors import EchoMarketsError, PoolTimeout
from core.service import EnhancedDatabaseService

logger = logging.getLogger(__name__)

# Threads beyond the limit: they wait, and give up after DATABASE_POOL_TIMEOUT.
WAITING = 3


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
        except EchoMarketsError as error:
            # without a database, avoid a tight loop
            logger.debug("no connection: %s", type(error).__name__)
            stopping.wait(0.1)
