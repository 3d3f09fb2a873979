"""Uses a pool up, for drills: what an operation that holds connections for too long looks like.

Owns that and nothing else; goes through the service, so that its figures are those of any caller.
"""

import logging
import threading

from core.errors import EchoMarketsError, PoolTimeout
from core.service import EnhancedDatabaseService

logger = logging.getLogger(__name__)

# More than can get a connection: those wait, and give up after DATABASE_POOL_TIMEOUT.
WAITING = 3


def occupy_pool(service: EnhancedDatabaseService, *, connections: int, stopping: threading.Event) -> None:
    """Hold every connection until `stopping` is set, with more threads that want one."""
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
            # which is the point; at once again, so that somebody waits whenever one looks
            continue
        except EchoMarketsError as error:
            # no database, which is not worth a tight loop
            logger.debug("no connection: %s", type(error).__name__)
            stopping.wait(0.1)
