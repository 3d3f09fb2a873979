"""Count the entries of each leaderboard in buckets, so that ranks and deep pages read one bucket.

`leaderboard_counters` has the start of each bucket and a number of entries. A bucket can have several rows
with the same start, and its number of entries is the sum over these rows. Writers only insert rows, so they
do not wait for each other and cannot deadlock. `leaderboard_fold` replaces the rows of a bucket by their sum,
and splits buckets that have grown. A start is a position in the order of a leaderboard (score descending,
created_at, id); `depth` is minus the score. A bucket can start between two entries with the same score, so
even a million equal scores are divided into small buckets.

A bucket can be split only when no uncommitted transaction has counted entries with the old start. Therefore
writers hold a shared advisory lock until they commit. A split needs the exclusive lock, and gives up if it
does not get the lock immediately. A split runs just before the commit and waits for no lock, so it cannot
cause a deadlock.
"""

from typing import Any

# Number of entries in a bucket after a split. A bucket with more than twice this number is split.
BUCKET = 2000

TABLE = """
    CREATE TABLE leaderboard_counters (
        session_date date NOT NULL,
        category varchar(50) NOT NULL,
        depth numeric NOT NULL,
        created_at timestamp with time zone NOT NULL,
        id uuid NOT NULL,
        entries bigint NOT NULL
    )"""
INDEX = """
    CREATE INDEX leaderboard_counters_bucket ON leaderboard_counters
        (session_date, category, depth, created_at, id) INCLUDE (entries)"""

# The lock table of PostgreSQL is small. Therefore leaderboards share 64 locks: a statement takes at most 64,
# for any number of leaderboards.
LOCK_SLOT = """
    CREATE FUNCTION leaderboard_lock_slot(day date, board varchar) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN hashtext((day - date '2000-01-01')::text || ':' || board) & 63"""

# The keys of two advisory locks ("bord" and "fold" in ASCII).
WRITERS, FOLDERS = 0x626F7264, 0x666F6C64

_ATTRIBUTE = """
    INSERT INTO leaderboard_counters (session_date, category, depth, created_at, id, entries)
    SELECT c.session_date, c.category, COALESCE(f.depth, '-Infinity'),
           COALESCE(f.created_at, '-infinity'),
           COALESCE(f.id, '00000000-0000-0000-0000-000000000000'), sum(c.change)
    FROM ({changes}) AS c LEFT JOIN LATERAL (
        SELECT k.depth, k.created_at, k.id FROM leaderboard_counters k
        WHERE k.session_date = c.session_date AND k.category = c.category
          AND (k.depth, k.created_at, k.id) <= (-c.score, c.created_at, c.id)
        ORDER BY k.depth DESC, k.created_at DESC, k.id DESC LIMIT 1
    ) AS f ON true
    GROUP BY 1, 2, 3, 4, 5 HAVING sum(c.change) <> 0 ORDER BY 1, 2, 3, 4, 5;"""
_LOCK = f"""
    PERFORM pg_advisory_xact_lock_shared({WRITERS}, slot) FROM (
        SELECT DISTINCT leaderboard_lock_slot(session_date, category) AS slot FROM {{rows}}
    ) AS slots;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;"""
_KEYS = "session_date, category, score, created_at, id"
# An update of final ranks moves no entry, so this join returns no rows for it. The function still locks the
# leaderboards of the updated entries, because a second join to exclude these entries would cost more.
_UPDATED = """
    SELECT v.* FROM old_rows o FULL JOIN new_rows n ON n.id = o.id
    CROSS JOIN LATERAL (VALUES
        (o.session_date, o.category, o.score, o.created_at, o.id, -1),
        (n.session_date, n.category, n.score, n.created_at, n.id, 1)
    ) AS v (session_date, category, score, created_at, id, change)
    WHERE v.id IS NOT NULL
      AND (o.session_date, o.category, o.score, o.created_at)
          IS DISTINCT FROM (n.session_date, n.category, n.score, n.created_at)"""
_TOUCHED = "SELECT session_date, category FROM old_rows UNION SELECT session_date, category FROM new_rows"

# A plan is cached for the life of the connection, and may be made while the table of counters is small. The
# settings force index scans in that case too. Read committed is required: a snapshot from before the lock
# could have outdated starts of buckets.
COUNT = f"""
    CREATE FUNCTION leaderboard_count() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_bitmapscan = off AS $$
    BEGIN
        IF TG_OP = 'TRUNCATE' THEN
            DELETE FROM leaderboard_counters;
            RETURN NULL;
        END IF;
        IF current_setting('transaction_isolation') <> 'read committed' THEN
            RAISE EXCEPTION 'leaderboard_entries is written at %; write at read committed',
                current_setting('transaction_isolation') USING ERRCODE = 'feature_not_supported';
        END IF;
        IF TG_OP = 'INSERT' THEN
            {_LOCK.format(rows="new_rows")}
            {_ATTRIBUTE.format(changes=f"SELECT {_KEYS}, 1 AS change FROM new_rows")}
        ELSIF TG_OP = 'DELETE' THEN
            {_LOCK.format(rows="old_rows")}
            {_ATTRIBUTE.format(changes=f"SELECT {_KEYS}, -1 AS change FROM old_rows")}
        ELSE
            {_LOCK.format(rows=f"({_TOUCHED}) AS touched")}
            {_ATTRIBUTE.format(changes=_UPDATED)}
        END IF;
        RETURN NULL;
    END $$"""

# Divides entries into buckets of `target` entries. The first bucket keeps the start of the divided bucket.
_PIECES = """
    SELECT session_date, category,
           CASE WHEN piece = 0 THEN {depth} ELSE -max(score) END,
           CASE WHEN piece = 0 THEN {created_at}
                ELSE (array_agg(created_at) FILTER (WHERE n % {target} = 0))[1] END,
           CASE WHEN piece = 0 THEN {id} ELSE (array_agg(id) FILTER (WHERE n % {target} = 0))[1] END,
           count(*)
    FROM (SELECT *, n / {target} AS piece FROM (
        SELECT *, row_number() OVER (PARTITION BY session_date, category
                                     ORDER BY score DESC, created_at, id) - 1 AS n
        FROM {rows}
    ) AS numbered) AS pieces
    GROUP BY session_date, category, piece"""
# The entries of a bucket, as three index ranges: entries with the score of the bucket's start, entries with
# the score of the next bucket's start, and entries with a score between these two.
_BUCKET_ROWS = f"""(
        SELECT {_KEYS} FROM leaderboard_entries
        WHERE session_date = day AND category = board AND score = -first.depth
          AND (created_at, id) >= (first.created_at, first.id)
          AND (first.depth <> first.next_depth OR (created_at, id) < (first.next_created_at, first.next_id))
        UNION ALL
        SELECT {_KEYS} FROM leaderboard_entries
        WHERE session_date = day AND category = board
          AND score < -first.depth AND score > -first.next_depth
        UNION ALL
        SELECT {_KEYS} FROM leaderboard_entries
        WHERE session_date = day AND category = board AND score = -first.next_depth
          AND first.depth <> first.next_depth
          AND (created_at, id) < (first.next_created_at, first.next_id)
    ) AS bucket"""
_BUCKET_PIECES = _PIECES.format(
    depth="first.depth", created_at="first.created_at", id="first.id", target="target", rows=_BUCKET_ROWS
)
# Merges neighbouring buckets if a leaderboard has too many. For example, if all scores grow, the buckets of
# low scores stay without entries.
_MERGE = """
            WITH removed AS (
                DELETE FROM leaderboard_counters WHERE session_date = day AND category = board
                RETURNING *
            ), buckets AS (
                SELECT depth, created_at, id, sum(entries) AS entries FROM removed GROUP BY 1, 2, 3
            ), placed AS (
                SELECT *, sum(entries) OVER places - entries AS before, row_number() OVER places AS n
                FROM buckets WINDOW places AS (ORDER BY depth, created_at, id)
            )
            INSERT INTO leaderboard_counters (session_date, category, depth, created_at, id, entries)
            SELECT day, board, min(depth), (array_agg(created_at ORDER BY n))[1],
                   (array_agg(id ORDER BY n))[1], sum(entries)
            FROM placed GROUP BY div(before, target)"""
FOLD = f"""
    CREATE FUNCTION leaderboard_fold(day date, board varchar, target bigint DEFAULT {BUCKET})
    RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        slot integer := leaderboard_lock_slot(day, board);
        size record;
        sparse boolean;
        first record;
    BEGIN
        -- an older snapshot would not contain the rows that others have folded since
        IF current_setting('transaction_isolation') <> 'read committed'
           OR NOT pg_try_advisory_xact_lock({FOLDERS}, slot) THEN
            RETURN;
        END IF;
        SELECT count(*) AS buckets, sum(rows) AS rows, sum(entries) AS entries,
               max(entries) AS largest INTO size FROM (
            SELECT count(*) AS rows, sum(entries) AS entries FROM leaderboard_counters
            WHERE session_date = day AND category = board GROUP BY depth, created_at, id) AS buckets;
        IF size.rows > 2 * size.buckets THEN
            WITH folded AS (
                DELETE FROM leaderboard_counters WHERE session_date = day AND category = board
                RETURNING *
            )
            -- an empty bucket stays: an uncommitted transaction may have counted an entry in it
            INSERT INTO leaderboard_counters (session_date, category, depth, created_at, id, entries)
            SELECT day, board, depth, created_at, id, sum(entries) FROM folded GROUP BY 3, 4, 5;
        END IF;
        sparse := size.buckets > 4 * (size.entries / target + 1);
        IF NOT (sparse OR size.largest > 2 * target)
           OR NOT pg_try_advisory_xact_lock({WRITERS}, slot) THEN
            RETURN;
        END IF;
        IF sparse THEN
            {_MERGE};
        END IF;
        FOR first IN
            SELECT * FROM (
                SELECT depth, created_at, id, sum(entries) AS entries,
                       lead(depth, 1, 'Infinity') OVER places AS next_depth,
                       lead(created_at, 1, 'infinity') OVER places AS next_created_at,
                       lead(id, 1, '00000000-0000-0000-0000-000000000000') OVER places AS next_id
                FROM leaderboard_counters WHERE session_date = day AND category = board
                GROUP BY depth, created_at, id WINDOW places AS (ORDER BY depth, created_at, id)
            ) AS buckets WHERE entries > 2 * target
        LOOP
            DELETE FROM leaderboard_counters
            WHERE session_date = day AND category = board
              AND (depth, created_at, id) = (first.depth, first.created_at, first.id);
            INSERT INTO leaderboard_counters (session_date, category, depth, created_at, id, entries)
            {_BUCKET_PIECES};
        END LOOP;
    END $$"""
FOLD_LATER = """
    CREATE FUNCTION leaderboard_fold_later() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM leaderboard_fold(NEW.session_date, NEW.category);
        RETURN NULL;
    END $$"""
# Calls `leaderboard_fold` at random, so that no state has to be stored. On average there is one call for
# every 4,000 new entries, because a bucket with more than 4,000 entries is split. There is also one call for
# every 4,000 new rows of counters, because a reader sums 4,000 rows in a millisecond.
FOLDING = f"""
    CREATE CONSTRAINT TRIGGER leaderboard_counters_fold AFTER INSERT ON leaderboard_counters
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (random() < NEW.entries / {2 * BUCKET}.0 + 0.00025)
    EXECUTE FUNCTION leaderboard_fold_later()"""
# Half of each page is reserved for a second version of each row. Then an update of the rank, which is in no
# index, is a HOT update: it adds no entry to the three indexes and takes a seventh of the time.
ROOM = "ALTER TABLE leaderboard_entries SET (fillfactor = 50)"
COUNTING = {
    "leaderboard_entries_inserted": "INSERT ON leaderboard_entries REFERENCING NEW TABLE AS new_rows",
    "leaderboard_entries_updated": (
        "UPDATE ON leaderboard_entries REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"
    ),
    "leaderboard_entries_deleted": "DELETE ON leaderboard_entries REFERENCING OLD TABLE AS old_rows",
    "leaderboard_entries_truncated": "TRUNCATE ON leaderboard_entries",
}
BACKFILL = f"""
    INSERT INTO leaderboard_counters (session_date, category, depth, created_at, id, entries)
    {
    _PIECES.format(
        depth="'-Infinity'",
        created_at="'-infinity'",
        id="'00000000-0000-0000-0000-000000000000'",
        target=BUCKET,
        rows="leaderboard_entries",
    )
}"""


def up(_migrator: Any, db: Any) -> None:
    """Count the existing entries, and create triggers that count every change."""
    # no transaction may write between the backfill and the creation of the triggers
    db.execute_sql("LOCK TABLE leaderboard_entries IN SHARE ROW EXCLUSIVE MODE")
    for statement in (ROOM, TABLE, BACKFILL, INDEX, LOCK_SLOT, COUNT, FOLD, FOLD_LATER, FOLDING):
        db.execute_sql(statement.replace("%", "%%"))
    for name, event in COUNTING.items():
        db.execute_sql(
            f"CREATE TRIGGER {name} AFTER {event} FOR EACH STATEMENT EXECUTE FUNCTION leaderboard_count()"
        )
    db.execute_sql("ANALYZE leaderboard_counters")


def down(_migrator: Any, db: Any) -> None:
    """Drop counters, triggers and functions; the entries stay."""
    db.execute_sql("ALTER TABLE leaderboard_entries RESET (fillfactor)")
    for name in COUNTING:
        db.execute_sql(f"DROP TRIGGER {name} ON leaderboard_entries")
    db.execute_sql("DROP TABLE leaderboard_counters")
    for function in ("leaderboard_fold_later", "leaderboard_fold", "leaderboard_count"):
        db.execute_sql(f"DROP FUNCTION {function}")
    db.execute_sql("DROP FUNCTION leaderboard_lock_slot")
