"""Echo Markets: the data layer of a stock-trading game.

`open_service()` returns the one service; see `EnhancedDatabaseService`.
"""

from core.app import open_service
from core.service import EnhancedDatabaseService
from core.settings import Settings

__all__ = ["EnhancedDatabaseService", "Settings", "open_service"]
