"""Compares the counters of leaderboards with the stored entries."""

from datetime import date

from tests.conftest import Execute

# A bucket holds the entries from its lower bound up to the lower bound of the next bucket.
WRONG_BUCKETS = """
    WITH buckets AS (
        SELECT session_date, category, depth, created_at, id, sum(entries) AS entries
        FROM leaderboard_counters WHERE %(day)s IS NULL OR session_date = %(day)s
        GROUP BY 1, 2, 3, 4, 5
    ), places AS (
        SELECT session_date, category, depth, created_at, id, 0 AS entry, entries AS counted FROM buckets
        UNION ALL
        SELECT session_date, category, -score, created_at, id, 1, 0 FROM leaderboard_entries
        WHERE %(day)s IS NULL OR session_date = %(day)s
    ), numbered AS (
        SELECT *, count(*) FILTER (WHERE entry = 0) OVER (
            PARTITION BY session_date, category ORDER BY depth, created_at, id, entry) AS bucket
        FROM places
    )
    SELECT session_date, category, bucket, sum(entry), sum(counted)
    FROM numbered GROUP BY 1, 2, 3 HAVING sum(entry) <> sum(counted)"""
BUCKETS = "SELECT count(DISTINCT (session_date, category, depth, created_at, id)) FROM leaderboard_counters"


def assert_counted(execute: Execute, day: date | None = None) -> None:
    """Assert that each bucket counts exactly its entries, for all sessions or for the session `day`."""
    assert execute(WRONG_BUCKETS, {"day": day}) == []


def count_buckets(execute: Execute) -> int:
    """Return the number of buckets of all leaderboards."""
    return int(execute(BUCKETS)[0][0])
