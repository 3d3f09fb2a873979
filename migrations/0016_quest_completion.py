"""Remember when a quest was completed.

No stored value says when the quests that are completed already were: a quest has only the time at which it
was given, and the scores and metadata of leaderboards tell at most the day. Their time stays unknown (NULL).
A repeated `echo-markets seed` gives the quests of its replay the times that follow from their sessions.
"""

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """Add the column, what it may hold, and an index for counts of a period."""
    db.execute_sql("""ALTER TABLE quests ADD COLUMN completed_at timestamptz,
        ADD CONSTRAINT quests_completed_at
            CHECK (completed_at IS NULL OR status = 'COMPLETED' AND completed_at >= created_at)""")
    db.execute_sql("CREATE INDEX quests_completed ON quests (completed_at) WHERE completed_at IS NOT NULL")


def down(_migrator: Any, db: Any) -> None:
    """Drop the column, and with it the constraint and the index."""
    db.execute_sql("ALTER TABLE quests DROP COLUMN completed_at")
