"""Move the most frequent statements of a game into functions, and fit the size of buckets to leaderboards.

PostgreSQL plans a statement each time it is sent as text. This takes longer than to read a rank or write a
score. The statements in a function are planned once per connection, also behind a transaction pooler. A plan
may be made while the tables are empty. Therefore the functions have settings that prevent full table scans.

The number of entries in a bucket is about the square root of the number of entries in the leaderboard, at
least 64. To compute a rank, PostgreSQL reads a part of one bucket and the counters of all buckets before it.
With smaller buckets there would be more counters to read, and with larger buckets more entries. The cost of
small buckets is that `leaderboard_fold` replaces counters by their sum more often, about once per hundred
changed scores.
"""

from typing import Any

# With these settings a function uses the schema of the migration for any search path of the session, and
# plans its statements once.
PLANNED_ONCE = """
    SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off"""
MIN_BUCKET, MAX_BUCKET = 64, 2000
BUCKET_SIZE = f"""
    CREATE FUNCTION leaderboard_bucket_size(day date, board varchar) RETURNS bigint LANGUAGE plpgsql STABLE
    {PLANNED_ONCE} AS $$
    BEGIN
        RETURN (
            SELECT greatest({MIN_BUCKET}, least({MAX_BUCKET}, sqrt(greatest(0, sum(entries)))))
            FROM leaderboard_counters WHERE session_date = day AND category = board
        );
    END $$"""
_FOLD_LATER = """
    CREATE OR REPLACE FUNCTION leaderboard_fold_later() RETURNS trigger LANGUAGE plpgsql
    SET search_path FROM CURRENT AS $$
    BEGIN
        PERFORM leaderboard_fold(NEW.session_date, NEW.category{size});
        RETURN NULL;
    END $$"""
_FOLDING = """
    CREATE CONSTRAINT TRIGGER leaderboard_counters_fold AFTER INSERT ON leaderboard_counters
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (random() < {chance})
    EXECUTE FUNCTION leaderboard_fold_later()"""
_DROP_FOLDING = "DROP TRIGGER leaderboard_counters_fold ON leaderboard_counters"
FOLD_ALL = """
    SELECT leaderboard_fold(session_date, category, leaderboard_bucket_size(session_date, category))
    FROM (SELECT DISTINCT session_date, category FROM leaderboard_counters) AS leaderboards"""

_COLUMNS = """TABLE (id uuid, user_id uuid, username text, session_date date, category varchar,
        score numeric, rank bigint, metadata jsonb, created_at timestamp with time zone)"""
_BOARD = "session_date = day AND category = board"
# BETWEEN and ORDER BY force the index by user. Otherwise a plan that is made on empty tables could use the
# other index and read a complete leaderboard for one entry.
_FIND = f"""
        SELECT id INTO place FROM leaderboard_entries
        WHERE user_id BETWEEN player AND player AND {_BOARD} ORDER BY user_id LIMIT 1"""
# Returns an entry with its rank: 1 plus the number of entries with a higher score. First finds the last
# bucket that starts at a higher score. All entries of the buckets before it have a higher score. In this
# bucket, only the entries with a higher score are counted.
_RETURN = f"""
        RETURN QUERY SELECT e.id, e.user_id, u.username, e.session_date, e.category, e.score, 1 + COALESCE((
            SELECT (SELECT COALESCE(sum(entries), 0) FROM leaderboard_counters
                    WHERE {_BOARD} AND (depth, created_at, id) < (f.depth, f.created_at, f.id))
                 + (SELECT count(*) FROM leaderboard_entries
                    WHERE {_BOARD} AND score = -f.depth AND (created_at, id) >= (f.created_at, f.id))
                 + (SELECT count(*) FROM leaderboard_entries
                    WHERE {_BOARD} AND score < -f.depth AND score > e.score)
            FROM (SELECT depth, created_at, id FROM leaderboard_counters
                  WHERE {_BOARD} AND depth < -e.score
                  ORDER BY depth DESC, created_at DESC, id DESC LIMIT 1) AS f), 0)::bigint,
            e.metadata, e.created_at
        FROM leaderboard_entries e JOIN users u ON u.id = e.user_id WHERE e.id = place"""
RANK = f"""
    CREATE FUNCTION leaderboard_rank(player uuid, day date, board varchar) RETURNS {_COLUMNS}
    LANGUAGE plpgsql STABLE {PLANNED_ONCE} AS $$
    #variable_conflict use_column
    DECLARE
        place uuid;
    BEGIN
        {_FIND};
        {_RETURN};
    END $$"""
# Tries an update first: most entries exist, and an upsert fires the triggers for both insert and update.
# Empty metadata leaves the stored metadata unchanged. Returns no row when the player does not exist.
SET_SCORE = f"""
    CREATE FUNCTION leaderboard_set_score(
        entry uuid, player uuid, day date, board varchar, points numeric, document jsonb
    ) RETURNS {_COLUMNS} LANGUAGE plpgsql {PLANNED_ONCE} AS $$
    #variable_conflict use_column
    DECLARE
        place uuid;
    BEGIN
        {_FIND};
        UPDATE leaderboard_entries
        SET score = points, metadata = CASE WHEN document = '{{}}' THEN metadata ELSE document END
        WHERE id = place;
        IF NOT FOUND THEN
            INSERT INTO leaderboard_entries AS e (id, user_id, session_date, category, score, metadata)
            SELECT entry, player, day, board, points, document
            WHERE EXISTS (SELECT FROM users WHERE users.id = player)
            ON CONFLICT (user_id, session_date, category) DO UPDATE SET score = EXCLUDED.score,
                metadata = CASE WHEN EXCLUDED.metadata = '{{}}' THEN e.metadata ELSE EXCLUDED.metadata END
            RETURNING id INTO place;
        END IF;
        {_RETURN};
    END $$"""


def up(_migrator: Any, db: Any) -> None:
    """Create the functions, and split the existing buckets."""
    for statement in (
        BUCKET_SIZE,
        _FOLD_LATER.format(size=", leaderboard_bucket_size(NEW.session_date, NEW.category)"),
        _DROP_FOLDING,
        # on average `leaderboard_fold` runs once for every 128 new entries, because a bucket of the smallest
        # size is split when it has more than 128 entries
        _FOLDING.format(chance=f"greatest(NEW.entries / {2 * MIN_BUCKET}.0, 0.001)"),
        RANK,
        SET_SCORE,
        FOLD_ALL,
    ):
        db.execute_sql(statement.replace("%", "%%"))


def down(_migrator: Any, db: Any) -> None:
    """Drop the functions; later writes merge the small buckets again."""
    db.execute_sql("DROP FUNCTION leaderboard_set_score")
    db.execute_sql("DROP FUNCTION leaderboard_rank")
    db.execute_sql(_DROP_FOLDING)
    db.execute_sql(_FOLDING.format(chance="NEW.entries / 4000.0 + 0.00025"))
    db.execute_sql(_FOLD_LATER.format(size=""))
    db.execute_sql("DROP FUNCTION leaderboard_bucket_size")
