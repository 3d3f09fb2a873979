"""Store the time at which a quest was completed.

For quests that are completed already, this time is unknown (NULL). Before this migration, a quest stored only
the time of its creation. The entries of a leaderboard show at most the day on which a quest was completed. If
`echo-markets seed` is run again, it sets the times of the quests in its replay from their sessions.
"""

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """Add the column, a constraint for its values, and an index for counts in a period."""
    db.execute_sql("""ALTER TABLE quests ADD COLUMN completed_at timestamptz,
        ADD CONSTRAINT quests_completed_at
            CHECK (completed_at IS NULL OR status = 'COMPLETED' AND completed_at >= created_at)""")
    db.execute_sql("CREATE INDEX quests_completed ON quests (completed_at) WHERE completed_at IS NOT NULL")


def down(_migrator: Any, db: Any) -> None:
    """Drop the column, and with it the constraint and the index."""
    db.execute_sql("ALTER TABLE quests DROP COLUMN completed_at")
