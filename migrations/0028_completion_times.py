"""Let reports on times to complete read the index of completed quests, not the table.

The index has the time of creation, type and title beside the time of completion. Of 600,000 completed
quests, those of 30 of 84 days take 0.96 s instead of 1.45 s (medians of three turns on a busy machine); a
window with all of them still reads the table. The index has 37 MB instead of 13 MB. Loading completed
quests writes 2 % more log and took 188 us instead of 156 us each; a single completion writes as much log as
before, and its times varied too much to compare (7.1 to 13.1 ms with the index, 7.6 to 9.3 ms before).
"""

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """Create the wider index in place of the one before."""
    db.execute_sql("DROP INDEX quests_completed")
    db.execute_sql(
        "CREATE INDEX quests_completed ON quests (completed_at) INCLUDE (created_at, type, title)"
        " WHERE completed_at IS NOT NULL"
    )


def down(_migrator: Any, db: Any) -> None:
    """Create the narrow index again."""
    db.execute_sql("DROP INDEX quests_completed")
    db.execute_sql("CREATE INDEX quests_completed ON quests (completed_at) WHERE completed_at IS NOT NULL")
