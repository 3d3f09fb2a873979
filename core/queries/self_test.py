"""Statements of the self-test: they remove what it wrote and no call of the service removes."""

from datetime import date

from core.database import Database
from core.queries.rows import count_changed

# "bord" in ASCII, as the triggers of `leaderboard_entries` take it: who has it alone knows that nobody
# has counted an entry without having committed.
WRITERS_LOCK = 0x626F7264

DELETE_AUDIT_EVENTS = "DELETE FROM audit_events WHERE actor = %s AND target = %s"
HAS_COUNTERS = "SELECT EXISTS (SELECT FROM leaderboard_counters WHERE session_date = %s AND category = %s)"
TRY_LOCK = "SELECT pg_try_advisory_xact_lock(%s, leaderboard_lock_slot(%s, %s))"
DELETE_ENTRIES = "DELETE FROM leaderboard_entries WHERE session_date = %s AND category = %s"
DELETE_COUNTERS = "DELETE FROM leaderboard_counters WHERE session_date = %s AND category = %s"


def delete_audit_events(database: Database, actor: str, target: str) -> int:
    """Delete the records of one actor about one target; return how many there were."""
    return count_changed(database, DELETE_AUDIT_EVENTS, (actor, target))


def delete_leaderboard(database: Database, session_date: date, category: str) -> bool:
    """Delete a leaderboard with its counters; False while somebody may be counting, to be tried again."""
    board = (session_date, category)
    [(has_counters,)] = database.execute_sql(HAS_COUNTERS, board).fetchall()
    if not has_counters:
        return True
    # never waited for: everybody who writes entries would wait behind
    [(is_alone,)] = database.execute_sql(TRY_LOCK, (WRITERS_LOCK, *board)).fetchall()
    if is_alone:
        database.execute_sql(DELETE_ENTRIES, board)
        database.execute_sql(DELETE_COUNTERS, board)
    return bool(is_alone)
