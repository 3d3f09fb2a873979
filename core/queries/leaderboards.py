"""Statements on `leaderboard_entries` and `leaderboard_counters`: pages, ranks, writes.

A leaderboard is a category in a session. Its entries are ordered by score, highest first, then by creation
time, then by id. An index has the same order.

The leaderboard is divided into buckets, and `leaderboard_counters` has the number of entries of each bucket.
The number of entries before an entry is the sum of the counters of all earlier buckets, plus a count within
the bucket of this entry. So PostgreSQL reads only the counters, one bucket and the returned rows to select a
page or to compute a rank.

Ranks are counted while a session is open, and stored when it is closed.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg2.extras import Json

from core.database import Database
from core.queries.rows import (
    count_changed,
    fetch_all,
    fetch_number,
    find_one,
    get_first,
    list_columns,
    make_builder,
)
from core.records import LeaderboardEntry, freeze

LEADERBOARD = "session_date = %(day)s AND category = %(category)s"


def select_entry(rank: str, *, username: str = "u.username") -> str:
    """Return the SELECT list of a leaderboard entry `e`; `rank` and `username` are SQL expressions."""
    given = {"rank": rank, "username": username}
    return ", ".join(given.get(name, f"e.{name}") for name in LeaderboardEntry.__struct_fields__)


def count_above(score: str, *, day: str = "%(day)s", condition: str = ">") -> str:
    """Return an SQL expression for the number of entries of a leaderboard with a score above `score`.

    With the `condition` ">=", entries with exactly this score are counted too. Let B be the last bucket whose
    start fulfils the condition. The expression adds the counters of the buckets before B to the number of
    entries of B that fulfil the condition. The counters store the score of a bucket's start with the opposite
    sign, in the column `depth`.
    """
    deeper = condition.replace(">", "<")
    leaderboard = f"session_date = {day} AND category = %(category)s"
    return f"""COALESCE((
        SELECT (SELECT COALESCE(sum(entries), 0) FROM leaderboard_counters
                WHERE {leaderboard} AND (depth, created_at, id) < (f.depth, f.created_at, f.id))
             + (SELECT count(*) FROM leaderboard_entries
                WHERE {leaderboard} AND score = -f.depth AND (created_at, id) >= (f.created_at, f.id))
             + (SELECT count(*) FROM leaderboard_entries
                WHERE {leaderboard} AND score < -f.depth AND score {condition} {score})
        FROM (SELECT depth, created_at, id FROM leaderboard_counters
              WHERE {leaderboard} AND depth {deeper} -{score}
              ORDER BY depth DESC, created_at DESC, id DESC LIMIT 1) AS f), 0)::bigint"""


# The rank of an entry `e` of any page. `first.score` is the highest score of the page. On the whole
# leaderboard, `first.higher` entries have a score above `first.score`, and `first.as_high` entries have a
# score of at least `first.score`. The rank of a lower score is its rank on the page plus the number of
# entries before the page. That number is `first.as_high` minus the number of entries of the page with
# `first.score`.
RANK_ON_PAGE = """
           CASE WHEN e.score = first.score THEN 1 + first.higher
                ELSE first.as_high - count(*) FILTER (WHERE e.score = first.score) OVER ()
                     + rank() OVER (ORDER BY e.score DESC) END"""
# The rank of an entry `e` of a page for which the number of entries before the page is known.
RANK_FROM_OFFSET = """
           CASE WHEN e.score = first.score THEN 1 + first.higher
                ELSE %(offset)s + rank() OVER (ORDER BY e.score DESC) END"""
TOP = f"""
    WITH page AS MATERIALIZED (
        SELECT * FROM leaderboard_entries WHERE {LEADERBOARD}
        ORDER BY score DESC, created_at, id LIMIT %(limit)s
    )
    SELECT {select_entry("rank() OVER (ORDER BY e.score DESC)")}
    FROM page e JOIN usernames u ON u.id = e.user_id
    ORDER BY e.score DESC, e.created_at, e.id"""
# `bucket` is the bucket of the first entry of the page, and `skipped` is the number of entries of this bucket
# that are before the page. The offset does not give the rank of the page's first score, because entries
# before the page can have the same score. So this rank is one more than the number of higher scores. Entries
# with a lower score are all after the start of the page, so their ranks are computed from the offset.
PAGE = f"""
    WITH bucket AS MATERIALIZED (
        SELECT depth, created_at, id, (%(offset)s - before)::bigint AS skipped FROM (
            SELECT depth, created_at, id,
                   sum(sum(entries)) OVER (ORDER BY depth, created_at, id) - sum(entries) AS before
            FROM leaderboard_counters WHERE {LEADERBOARD} GROUP BY depth, created_at, id
        ) AS buckets
        WHERE before <= %(offset)s ORDER BY depth DESC, created_at DESC, id DESC LIMIT 1
    ), page AS MATERIALIZED (
        SELECT * FROM (
            (SELECT id, score, created_at FROM leaderboard_entries
             WHERE {LEADERBOARD} AND score = (SELECT -depth FROM bucket)
               AND (created_at, id) >= ((SELECT created_at FROM bucket), (SELECT id FROM bucket))
             ORDER BY created_at, id LIMIT (SELECT skipped + %(limit)s FROM bucket))
            UNION ALL
            (SELECT id, score, created_at FROM leaderboard_entries
             WHERE {LEADERBOARD} AND score < (SELECT -depth FROM bucket)
             ORDER BY score DESC, created_at, id LIMIT (SELECT skipped + %(limit)s FROM bucket))
        ) AS rest
        ORDER BY score DESC, created_at, id LIMIT %(limit)s OFFSET (SELECT skipped FROM bucket)
    ), first AS MATERIALIZED (
        SELECT score, {count_above("s.score")} AS higher FROM (SELECT max(score) AS score FROM page) AS s
    )
    SELECT {select_entry(RANK_FROM_OFFSET)}
    FROM page CROSS JOIN first JOIN leaderboard_entries e ON e.id = page.id
    JOIN usernames u ON u.id = e.user_id
    ORDER BY e.score DESC, e.created_at, e.id"""
# RANK and SET_SCORE call functions of migration 0010. A function plans its statements once per connection:
# planning takes longer than running them. SET_SCORE returns the written entry with its rank.
RANK = f"SELECT {list_columns(LeaderboardEntry)} FROM leaderboard_rank(%(user_id)s, %(day)s, %(category)s)"
SET_SCORE = f"""
    SELECT {list_columns(LeaderboardEntry)} FROM leaderboard_set_score(
        %(id)s, %(user_id)s, %(day)s, %(category)s, %(score)s, %(metadata)s)"""
# The columns of the player's entry. They are subqueries instead of a join, so that the planner knows that
# each is one value. It then reads the index in order and stops at the limit.
_MINE = {name: f"(SELECT {name} FROM me)" for name in ("score", "created_at", "id")}
# Reads four short ranges of the index, two above and two below the player's entry: entries with the same
# score, and entries with other scores.
AROUND = f"""
    WITH me AS MATERIALIZED (
        SELECT score, created_at, id FROM leaderboard_entries
        WHERE user_id = %(user_id)s AND session_date = %(day)s AND category = %(category)s
    ), above AS (
        SELECT * FROM (
            (SELECT * FROM leaderboard_entries WHERE {LEADERBOARD} AND score = {_MINE["score"]}
               AND (created_at, id) < ({_MINE["created_at"]}, {_MINE["id"]})
             ORDER BY created_at DESC, id DESC LIMIT %(radius)s)
            UNION ALL
            (SELECT * FROM leaderboard_entries WHERE {LEADERBOARD} AND score > {_MINE["score"]}
             ORDER BY score, created_at DESC, id DESC LIMIT %(radius)s)
        ) AS a ORDER BY score, created_at DESC, id DESC LIMIT %(radius)s
    ), below AS (
        SELECT * FROM (
            (SELECT * FROM leaderboard_entries WHERE {LEADERBOARD} AND score = {_MINE["score"]}
               AND (created_at, id) >= ({_MINE["created_at"]}, {_MINE["id"]})
             ORDER BY created_at, id LIMIT %(radius)s + 1)
            UNION ALL
            (SELECT * FROM leaderboard_entries WHERE {LEADERBOARD} AND score < {_MINE["score"]}
             ORDER BY score DESC, created_at, id LIMIT %(radius)s)
        ) AS b ORDER BY score DESC, created_at, id LIMIT %(radius)s + 1
    ), page AS MATERIALIZED (
        SELECT * FROM above UNION ALL SELECT * FROM below
    ), first AS MATERIALIZED (
        SELECT score, {count_above("s.score")} AS higher, {count_above("s.score", condition=">=")} AS as_high
        FROM (SELECT max(score) AS score FROM page) AS s
    )
    SELECT {select_entry(RANK_ON_PAGE)}
    FROM page e CROSS JOIN first JOIN usernames u ON u.id = e.user_id
    ORDER BY e.score DESC, e.created_at, e.id"""
# All batches insert in the order of user ids, so two batches take their locks in the same order. Users that
# do not exist are skipped: their ids are not returned.
UPSERT = """
    WITH batch (id, user_id, score, metadata) AS (
        SELECT * FROM unnest(%(ids)s::uuid[], %(user_ids)s::uuid[], %(scores)s::numeric[],
                             %(metadata)s::jsonb[])
    ), written AS (
        INSERT INTO leaderboard_entries (id, user_id, session_date, category, score, metadata)
        SELECT b.id, b.user_id, %(day)s, %(category)s, b.score, COALESCE(b.metadata, '{}')
        FROM batch b WHERE EXISTS (SELECT FROM users WHERE id = b.user_id OFFSET 0)
        ORDER BY b.user_id
        ON CONFLICT (user_id, session_date, category) DO UPDATE SET score = EXCLUDED.score,
            -- empty metadata leaves the stored metadata unchanged
            metadata = CASE WHEN EXCLUDED.metadata = '{}' THEN leaderboard_entries.metadata
                       ELSE EXCLUDED.metadata END
        RETURNING user_id
    )
    SELECT user_id FROM written"""
# Rows are updated in the order in which they are stored (`ctid`). In the order of ranks, each row would be on
# another page of the table, and the update would take ten times as long for a leaderboard that is larger than
# the server's memory.
CLOSE = """
    UPDATE leaderboard_entries e SET rank = ranked.place
    FROM (
        SELECT ctid, rank, rank() OVER (PARTITION BY category ORDER BY score DESC) AS place
        FROM leaderboard_entries WHERE session_date = %(day)s ORDER BY ctid
    ) AS ranked
    WHERE e.ctid = ranked.ctid AND ranked.rank IS DISTINCT FROM ranked.place"""
# CLOSE runs between SORT_MEMORY and RESET_MEMORY. The memory is enough for the two sorts of a million rows in
# CLOSE, and for the join in the trigger that counts the updated rows.
SORT_MEMORY = "SET LOCAL work_mem = '128MB'"
RESET_MEMORY = "SET LOCAL work_mem TO DEFAULT"
# Without fresh statistics the planner runs CLOSE with a nested loop. Only the owner of a table can collect
# statistics, so ANALYZE calls a function that runs with the owner's rights.
ANALYZE = "SELECT leaderboard_analyze()"
COUNT_SESSION = "SELECT count(*) FROM leaderboard_entries WHERE session_date = %s"
LIST_CATEGORIES = """
    WITH RECURSIVE categories AS (
        (SELECT min(category) AS name FROM leaderboard_entries WHERE session_date = %(day)s)
        UNION ALL
        SELECT (SELECT min(category) FROM leaderboard_entries
                WHERE session_date = %(day)s AND category > name)
        FROM categories WHERE name IS NOT NULL
    ) SELECT name FROM categories WHERE name IS NOT NULL"""
# The key of an advisory lock ("bord" in ASCII), as in migration 0003. A transaction that changes entries
# holds this lock, shared with other writers, until it ends.
WRITERS_LOCK = 0x626F7264
HAS_COUNTERS = f"SELECT EXISTS (SELECT FROM leaderboard_counters WHERE {LEADERBOARD})"
TRY_WRITERS_LOCK = "SELECT pg_try_advisory_xact_lock(%(lock)s, leaderboard_lock_slot(%(day)s, %(category)s))"
DELETE_ENTRIES = f"DELETE FROM leaderboard_entries WHERE {LEADERBOARD}"
DELETE_COUNTERS = f"DELETE FROM leaderboard_counters WHERE {LEADERBOARD}"

build_entry = make_builder(LeaderboardEntry, metadata=freeze)


def build_parameters(category: str, session_date: date, **more: Any) -> dict[str, Any]:
    """Return the parameters of a statement on one leaderboard, together with the parameters in `more`."""
    return {"category": category, "day": session_date, **more}


def list_page(
    database: Database, category: str, session_date: date, limit: int, offset: int
) -> tuple[LeaderboardEntry, ...]:
    """Return up to `limit` entries of a leaderboard after the first `offset` entries."""
    parameters = build_parameters(category, session_date, limit=limit, offset=offset)
    return fetch_all(database, build_entry, PAGE if offset else TOP, parameters)


def find_rank(
    database: Database, user_id: UUID, category: str, session_date: date
) -> LeaderboardEntry | None:
    """Return a player's entry with its rank, or None if the player has no entry."""
    parameters = build_parameters(category, session_date, user_id=user_id)
    return find_one(database, build_entry, RANK, parameters)


def list_around(
    database: Database, user_id: UUID, category: str, session_date: date, radius: int
) -> tuple[LeaderboardEntry, ...]:
    """Return a player's entry with up to `radius` entries above it and up to `radius` entries below it."""
    parameters = build_parameters(category, session_date, user_id=user_id, radius=radius)
    return fetch_all(database, build_entry, AROUND, parameters)


def upsert_entries(
    database: Database,
    category: str,
    session_date: date,
    rows: Sequence[tuple[UUID, UUID, Any, Mapping[str, Any] | None]],
) -> set[UUID]:
    """Insert or update entries, given as (id, user id, score, metadata).

    Returns the ids of the users that exist; entries of other users are skipped. Metadata that is None or
    empty keeps the stored metadata.
    """
    ordered = sorted(rows, key=lambda row: row[1])
    parameters = build_parameters(
        category,
        session_date,
        ids=[row[0] for row in ordered],
        user_ids=[row[1] for row in ordered],
        scores=[row[2] for row in ordered],
        metadata=[None if row[3] is None else Json(dict(row[3])) for row in ordered],
    )
    return set(fetch_all(database, get_first, UPSERT, parameters))


def set_score(
    database: Database,
    category: str,
    session_date: date,
    row: tuple[UUID, UUID, Decimal, Mapping[str, Any] | None],
) -> LeaderboardEntry | None:
    """Insert or update one entry, given as (id, user id, score, metadata), and return it with its rank.

    Returns None if the user does not exist. Metadata that is None or empty keeps the stored metadata.
    """
    entry_id, user_id, score, metadata = row
    parameters = build_parameters(
        category,
        session_date,
        id=entry_id,
        user_id=user_id,
        score=score,
        metadata=Json(dict(metadata)) if metadata else "{}",
    )
    return find_one(database, build_entry, SET_SCORE, parameters)


def store_ranks(database: Database, session_date: date) -> int:
    """Store the rank of every entry of a session, and return the number of entries."""
    database.execute_sql(ANALYZE)
    database.execute_sql(SORT_MEMORY)
    count_changed(database, CLOSE, {"day": session_date})
    database.execute_sql(RESET_MEMORY)
    return fetch_number(database, COUNT_SESSION, (session_date,))


def list_categories(database: Database, session_date: date) -> tuple[str, ...]:
    """Return the categories that have entries in a session, sorted by code points."""
    found = fetch_all(database, lambda row: str(row[0]), LIST_CATEGORIES, {"day": session_date})
    return tuple(sorted(found))


def delete_leaderboard(database: Database, session_date: date, category: str) -> bool:
    """Delete a leaderboard and its counters. Only the self-test does this.

    Returns False if another transaction is writing to the leaderboard. Nothing is then deleted, and the
    caller can try again.
    """
    parameters = build_parameters(category, session_date, lock=WRITERS_LOCK)
    [(has_counters,)] = database.execute_sql(HAS_COUNTERS, parameters).fetchall()
    if not has_counters:
        return True
    # Do not wait for the lock: all later writers of entries would wait behind this transaction.
    [is_alone] = fetch_all(database, get_first, TRY_WRITERS_LOCK, parameters)
    if is_alone:
        database.execute_sql(DELETE_ENTRIES, parameters)
        database.execute_sql(DELETE_COUNTERS, parameters)
    return bool(is_alone)
