"""Echo Markets: the data layer of a stock-trading game.

`open_service()` returns an `EnhancedDatabaseService`. Its methods are the public API.
"""

from core.app import open_service
from core.service import EnhancedDatabaseService
from core.settings import Settings

__all__ = ["EnhancedDatabaseService", "Settings", "open_service"]
