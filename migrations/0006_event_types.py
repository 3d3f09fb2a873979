"""Index market events by type: the list of types, and a filter that few pass, read few rows.

There is none by symbol: each has many events, so the newest of all are read until enough pass.
"""

from typing import Any

NAME = "market_events_type"


def up(_migrator: Any, db: Any) -> None:
    """Create the index."""
    db.execute_sql(f"CREATE INDEX {NAME} ON market_events (type, created_at DESC, id DESC)")


def down(_migrator: Any, db: Any) -> None:
    """Drop the index."""
    db.execute_sql(f"DROP INDEX {NAME}")
