"""Index the trades of a session, and the completed quests whose time of completion is unknown.

Trades are stored in the order of their sessions, so an index of block ranges finds those of one day: with
2.5 million trades of 14 sessions it has 24 kB, and the players who traded in one session are counted in 0.1 s
instead of 0.4 s, which would grow with every session. A trade that is written costs no entry in it.

No quest that is completed from now on is in the other index: only those of older releases are.
"""

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """Create the indexes."""
    db.execute_sql(
        "CREATE INDEX trades_session ON trades USING brin (session_date) WITH (autosummarize = on)"
    )
    db.execute_sql(
        "CREATE INDEX quests_undated ON quests (id) WHERE status = 'COMPLETED' AND completed_at IS NULL"
    )


def down(_migrator: Any, db: Any) -> None:
    """Drop the indexes."""
    db.execute_sql("DROP INDEX quests_undated")
    db.execute_sql("DROP INDEX trades_session")
