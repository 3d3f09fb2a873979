"""The one service of the stack: validate, transaction, commit, invalidate."""

from core.service.service import EnhancedDatabaseService

__all__ = ["EnhancedDatabaseService"]
