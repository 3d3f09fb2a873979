"""Statements on `leaderboard_entries`.

A board is a category in a session, ordered by score, then by who came first, then by
id. That order is the index's, so a page reads its own rows. Ranks are counted, not
stored, while a session runs: 1 + how many have a higher score.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any
from uuid import UUID

from psycopg2.extras import Json

from core.database import Database
from core.queries.rows import Row, count_changed, fetch_all, find_one
from core.records import LeaderboardEntry, freeze

_ENTRY = "e.id, e.user_id, u.username, e.session_date, e.category, e.score"
_REST = "e.metadata, e.created_at"
_HIGHER = """(SELECT count(*) FROM leaderboard_entries
        WHERE session_date = %(day)s AND category = %(category)s AND score > {score})"""

# Only the first score of a page may have equals on the page before; its rank is counted,
# all others follow from their place.
PAGE = f"""
    WITH page AS MATERIALIZED (
        SELECT * FROM leaderboard_entries
        WHERE session_date = %(day)s AND category = %(category)s
        ORDER BY score DESC, created_at, id LIMIT %(limit)s OFFSET %(offset)s
    ), top AS MATERIALIZED (
        SELECT score, CASE WHEN %(offset)s = 0 THEN 0 ELSE {_HIGHER.format(score="s.score")} END AS higher
        FROM (SELECT max(score) AS score FROM page) AS s
    )
    SELECT {_ENTRY},
           CASE WHEN e.score = top.score THEN 1 + top.higher
                ELSE %(offset)s + rank() OVER (ORDER BY e.score DESC) END,
           {_REST}
    FROM page e CROSS JOIN top JOIN users u ON u.id = e.user_id
    ORDER BY e.score DESC, e.created_at, e.id"""
RANK = f"""
    SELECT {_ENTRY}, 1 + {_HIGHER.format(score="e.score")}, {_REST}
    FROM leaderboard_entries e JOIN users u ON u.id = e.user_id
    WHERE e.user_id = %(user_id)s AND e.session_date = %(day)s AND e.category = %(category)s"""
# Four short scans of the index from the player's place: equals and others, above and below.
AROUND = f"""
    WITH me AS MATERIALIZED (
        SELECT score, created_at, id FROM leaderboard_entries
        WHERE user_id = %(user_id)s AND session_date = %(day)s AND category = %(category)s
    ), above AS (
        SELECT * FROM (
            (SELECT e.* FROM me, leaderboard_entries e
             WHERE session_date = %(day)s AND category = %(category)s AND e.score = me.score
               AND (e.created_at, e.id) < (me.created_at, me.id)
             ORDER BY e.created_at DESC, e.id DESC LIMIT %(radius)s)
            UNION ALL
            (SELECT e.* FROM leaderboard_entries e
             WHERE session_date = %(day)s AND category = %(category)s
               AND e.score > (SELECT score FROM me)
             ORDER BY e.score, e.created_at DESC, e.id DESC LIMIT %(radius)s)
        ) AS a ORDER BY score, created_at DESC, id DESC LIMIT %(radius)s
    ), below AS (
        SELECT * FROM (
            (SELECT e.* FROM me, leaderboard_entries e
             WHERE session_date = %(day)s AND category = %(category)s AND e.score = me.score
               AND (e.created_at, e.id) >= (me.created_at, me.id)
             ORDER BY e.created_at, e.id LIMIT %(radius)s + 1)
            UNION ALL
            (SELECT e.* FROM leaderboard_entries e
             WHERE session_date = %(day)s AND category = %(category)s
               AND e.score < (SELECT score FROM me)
             ORDER BY e.score DESC, e.created_at, e.id LIMIT %(radius)s)
        ) AS b ORDER BY score DESC, created_at, id LIMIT %(radius)s + 1
    ), page AS MATERIALIZED (
        SELECT * FROM above UNION ALL SELECT * FROM below
    ), top AS MATERIALIZED (
        SELECT score, {_HIGHER.format(score="s.score")} AS higher,
               -- of the first score's equals, those that stand before the page
               (SELECT count(*) FROM leaderboard_entries l WHERE session_date = %(day)s
                AND category = %(category)s AND l.score = s.score) AS equals
        FROM (SELECT max(score) AS score FROM page) AS s
    )
    SELECT {_ENTRY},
           CASE WHEN e.score = top.score THEN 1 + top.higher
                ELSE top.higher + top.equals
                     - count(*) FILTER (WHERE e.score = top.score) OVER ()
                     + rank() OVER (ORDER BY e.score DESC) END,
           {_REST}
    FROM page e CROSS JOIN top JOIN users u ON u.id = e.user_id
    ORDER BY e.score DESC, e.created_at, e.id"""
# Sorted input and one statement: two batches take their locks in the same order.
# A player that does not exist is left out and found by what is returned.
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
            -- metadata that was not given leaves what is there
            metadata = CASE WHEN EXCLUDED.metadata = '{}' THEN leaderboard_entries.metadata
                       ELSE EXCLUDED.metadata END
        RETURNING user_id
    )
    SELECT user_id FROM written"""
CLOSE = """
    UPDATE leaderboard_entries e SET rank = ranked.place
    FROM (
        SELECT id, rank() OVER (PARTITION BY category ORDER BY score DESC) AS place
        FROM leaderboard_entries WHERE session_date = %s
    ) AS ranked
    WHERE e.id = ranked.id AND e.rank IS DISTINCT FROM ranked.place"""
# Without fresh statistics the planner joins the two sides row by row.
ANALYZE = "ANALYZE leaderboard_entries"
COUNT_SESSION = "SELECT count(*) FROM leaderboard_entries WHERE session_date = %s"
LIST_CATEGORIES = """
    WITH RECURSIVE categories AS (
        (SELECT min(category) AS name FROM leaderboard_entries WHERE session_date = %(day)s)
        UNION ALL
        SELECT (SELECT min(category) FROM leaderboard_entries
                WHERE session_date = %(day)s AND category > name)
        FROM categories WHERE name IS NOT NULL
    ) SELECT name FROM categories WHERE name IS NOT NULL"""


def build_entry(row: Row) -> LeaderboardEntry:
    """Build an entry from a row of PAGE, RANK or AROUND."""
    values = [*row[:7], freeze(row[7]), row[8]]
    return LeaderboardEntry(*values)


def list_page(
    database: Database, category: str, session_date: date, limit: int, offset: int
) -> tuple[LeaderboardEntry, ...]:
    """Return `limit` entries of a board from place `offset` on."""
    return _fetch(database, PAGE, _board(category, session_date, limit=limit, offset=offset))


def find_rank(
    database: Database, user_id: UUID, category: str, session_date: date
) -> LeaderboardEntry | None:
    """Return a player's entry with its rank."""
    parameters = _board(category, session_date, user_id=user_id)
    return find_one(database, build_entry, RANK, parameters)


def list_around(
    database: Database, user_id: UUID, category: str, session_date: date, radius: int
) -> tuple[LeaderboardEntry, ...]:
    """Return up to `radius` entries on each side of a player's, and that entry."""
    parameters = _board(category, session_date, user_id=user_id, radius=radius)
    return _fetch(database, AROUND, parameters)


def upsert_entries(
    database: Database,
    category: str,
    session_date: date,
    rows: Sequence[tuple[UUID, UUID, Any, Mapping[str, Any] | None]],
) -> set[UUID]:
    """Write (id, user, score, metadata) rows; return the users that exist."""
    ordered = sorted(rows, key=lambda row: row[1])
    parameters = _board(
        category,
        session_date,
        ids=[row[0] for row in ordered],
        user_ids=[row[1] for row in ordered],
        scores=[row[2] for row in ordered],
        metadata=[None if row[3] is None else Json(dict(row[3])) for row in ordered],
    )
    return {row[0] for row in database.execute_sql(UPSERT, parameters).fetchall()}


def store_ranks(database: Database, session_date: date) -> int:
    """Store the rank of every entry of a session; return how many entries it has."""
    database.execute_sql(ANALYZE)
    count_changed(database, CLOSE, (session_date,))
    return int(database.execute_sql(COUNT_SESSION, (session_date,)).fetchone()[0])


def list_categories(database: Database, session_date: date) -> tuple[str, ...]:
    """Return the categories that have entries in a session."""
    return fetch_all(database, lambda row: row[0], LIST_CATEGORIES, {"day": session_date})


def _board(category: str, session_date: date, **more: Any) -> dict[str, Any]:
    return {"category": category, "day": session_date, **more}


def _fetch(database: Database, statement: str, parameters: Mapping[str, Any]) -> tuple[LeaderboardEntry, ...]:
    return fetch_all(database, build_entry, statement, parameters)
