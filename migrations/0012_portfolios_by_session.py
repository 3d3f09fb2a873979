"""Index the portfolios of a session by user, instead of by value.

A session is read in bulk in the order of its users, which no write changes, so that every portfolio
comes exactly once; nothing reads a session in the order of its values. A value that changes no longer
moves a row in an index, and where its page has room for it, PostgreSQL leaves all indexes alone.
"""

from typing import Any

DROP = "DROP INDEX portfolios_session"


def up(_migrator: Any, db: Any) -> None:
    """Replace the index."""
    db.execute_sql(DROP)
    db.execute_sql("CREATE INDEX portfolios_session ON portfolios (session_date, user_id)")


def down(_migrator: Any, db: Any) -> None:
    """Restore the index by value."""
    db.execute_sql(DROP)
    db.execute_sql("CREATE INDEX portfolios_session ON portfolios (session_date, total_value DESC)")
