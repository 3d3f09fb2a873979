"""The service: the calls with which every program reads and changes the data of Echo Markets."""

from core.service.service import EnhancedDatabaseService

__all__ = ["EnhancedDatabaseService"]
