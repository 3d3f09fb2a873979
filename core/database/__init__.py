"""The pooled PostgreSQL database: connections, units of work, error translation."""

from core.database.database import Database
from core.database.faults import ConstraintViolated, TransactionConflict

__all__ = ["ConstraintViolated", "Database", "TransactionConflict"]
