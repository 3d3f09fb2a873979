"""What leaderboards must look like, computed without counters."""

from datetime import date

from tests.conftest import Execute

# A bucket goes from its beginning to where the next one begins.
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
    """Assert that every bucket of every leaderboard (of a day) counts exactly the entries that are in it."""
    assert execute(WRONG_BUCKETS, {"day": day}) == []


def count_buckets(execute: Execute) -> int:
    """Return how many buckets all leaderboards have."""
    return int(execute(BUCKETS)[0][0])
