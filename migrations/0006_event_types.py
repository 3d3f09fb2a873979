"""Index market events by type. Then the list of types, and a filter by a rare type, read few rows.

There is no index by symbol: each symbol has many events, so the newest events are read until enough match.
"""

from typing import Any

NAME = "market_events_type"


def up(_migrator: Any, db: Any) -> None:
    """Create the index."""
    db.execute_sql(f"CREATE INDEX {NAME} ON market_events (type, created_at DESC, id DESC)")


def down(_migrator: Any, db: Any) -> None:
    """Drop the index."""
    db.execute_sql(f"DROP INDEX {NAME}")
