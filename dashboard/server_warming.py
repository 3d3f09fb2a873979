"""Fills the caches beside the first visitors, once the server has started.

Owns the background thread; what it reads is the service's own `warm_cache` and the newest
boards. Trouble only means that the first visitors wait longer, so it is logged and forgotten.
"""

import logging
import threading

from core import EnhancedDatabaseService
from core.errors import EchoMarketsError

logger = logging.getLogger(__name__)

BOARD_LIMITS = (10, 50, 100)
NEWEST_SESSIONS = 2


def start_warming(service: EnhancedDatabaseService) -> threading.Thread:
    """Fill the caches on a thread of its own, which ends early when the service is closed."""
    thread = threading.Thread(target=warm, args=(service,), name="warming", daemon=True)
    thread.start()
    return thread


def warm(service: EnhancedDatabaseService) -> None:
    """Read what visitors ask for first."""
    try:
        keys = service.warm_cache(limits=BOARD_LIMITS)
        for day in service.list_leaderboard_dates(limit=NEWEST_SESSIONS):
            for category in service.list_leaderboard_categories(day):
                for limit in BOARD_LIMITS:
                    service.get_leaderboard(category, day, limit)
                    keys += 1
    except EchoMarketsError as error:
        logger.info("the caches are filled as visitors come: %s", error)
    else:
        logger.info("filled the caches with %d keys", keys)
