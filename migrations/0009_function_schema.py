"""Let the triggers find their tables whatever the search path of the writing session is.

Their functions named tables without a schema, so a session with another path (another
application's, or psql's) wrote to tables of the same name in its own schema, or failed.
"""

from typing import Any

FUNCTIONS = (
    "leaderboard_count()",
    "leaderboard_fold(date, varchar, bigint)",
    "leaderboard_fold_later()",
    "ticks_note_symbols()",
    "ticks_note_move()",
)


def up(_migrator: Any, db: Any) -> None:
    """Pin each function to the path of the migration: the schema that they are in."""
    for function in FUNCTIONS:
        db.execute_sql(f"ALTER FUNCTION {function} SET search_path FROM CURRENT")


def down(_migrator: Any, db: Any) -> None:
    """Let them follow the session again."""
    for function in FUNCTIONS:
        db.execute_sql(f"ALTER FUNCTION {function} RESET search_path")
