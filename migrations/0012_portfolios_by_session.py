"""Index the portfolios of a session by user, instead of by value.

A bulk read of a session is in the order of users. No write changes this order, so every portfolio is read
exactly once. Nothing reads a session in the order of values. Without the index by value, an update of a value
is a HOT update if the page has room: PostgreSQL changes no index.
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
