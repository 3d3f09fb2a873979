"""The pooled PostgreSQL database: connections, units of work, error translation."""

from core.database.database import Database

__all__ = ["Database"]
