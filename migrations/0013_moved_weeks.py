"""Store by how many weeks the dates of a symbol's ticks were moved when the ticks were imported.

The import of the demo prices moves old trading days by whole weeks, so that the history ends last week.
"""

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """Add the column; existing history counts as not moved."""
    db.execute_sql("ALTER TABLE symbols ADD COLUMN moved_weeks integer NOT NULL DEFAULT 0")


def down(_migrator: Any, db: Any) -> None:
    """Drop the column; the dates of the ticks stay as they are."""
    db.execute_sql("ALTER TABLE symbols DROP COLUMN moved_weeks")
