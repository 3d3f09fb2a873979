"""Keep the statements that a game runs all day in functions, and buckets as small as they pay.

PostgreSQL plans a statement each time it comes as text, which takes longer than a rank or a score
itself. What stands in a function is planned once a connection, also behind a transaction pooler.
A plan may be made while the tables are empty, hence the settings: it must not read a table whole.

A bucket has about the square root of its leaderboard's entries, at least 64: a rank reads a part of
one bucket and the counters of those before it, and both grow as slowly as they can. Counters are summed
up more often for it, about once for a hundred scores that move.
"""

from typing import Any

# The schema is that of the migration, whatever the session's path is.
PLANNED_ONCE = """
    SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off"""
LEAST, MOST = 64, 2000
BUCKET_SIZE = f"""
    CREATE FUNCTION leaderboard_bucket_size(day date, board varchar) RETURNS bigint LANGUAGE plpgsql STABLE
    {PLANNED_ONCE} AS $$
    BEGIN
        RETURN (
            SELECT greatest({LEAST}, least({MOST}, sqrt(greatest(0, sum(entries)))))
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
# A range in the order of one index, because a plan that is made on empty tables may else take the other
# one, and then goes through a whole leaderboard for one entry.
_FIND = f"""
        SELECT id INTO place FROM leaderboard_entries
        WHERE user_id BETWEEN player AND player AND {_BOARD} ORDER BY user_id LIMIT 1"""
# Beginnings and places as in `leaderboard_counters`: the last bucket that begins above the score,
# all before that one, and what of it is above the score.
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
# Most entries are there already, and an upsert fires the triggers of both of its halves. Metadata that was
# not given leaves what is there. No row: there is no such player.
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
    """Create the functions, and cut the buckets that are there."""
    for statement in (
        BUCKET_SIZE,
        _FOLD_LATER.format(size=", leaderboard_bucket_size(NEW.session_date, NEW.category)"),
        _DROP_FOLDING,
        # once for as many new entries as the least bucket may have
        _FOLDING.format(chance=f"greatest(NEW.entries / {2 * LEAST}.0, 0.001)"),
        RANK,
        SET_SCORE,
        FOLD_ALL,
    ):
        db.execute_sql(statement.replace("%", "%%"))


def down(_migrator: Any, db: Any) -> None:
    """Drop the functions; buckets grow and are merged again as they are written."""
    db.execute_sql("DROP FUNCTION leaderboard_set_score")
    db.execute_sql("DROP FUNCTION leaderboard_rank")
    db.execute_sql(_DROP_FOLDING)
    db.execute_sql(_FOLDING.format(chance="NEW.entries / 4000.0 + 0.00025"))
    db.execute_sql(_FOLD_LATER.format(size=""))
    db.execute_sql("DROP FUNCTION leaderboard_bucket_size")
