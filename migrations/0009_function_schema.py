"""Make the triggers use the tables of their own schema, for any search path of the writing session.

The trigger functions named tables without a schema. So a session with another search path, such as that of
another application or psql, wrote to tables with the same names in its own schema, or failed.
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
    """Set the search path of each function to the search path of the migration."""
    for function in FUNCTIONS:
        db.execute_sql(f"ALTER FUNCTION {function} SET search_path FROM CURRENT")


def down(_migrator: Any, db: Any) -> None:
    """Make the functions use the search path of the session again."""
    for function in FUNCTIONS:
        db.execute_sql(f"ALTER FUNCTION {function} RESET search_path")
