"""Statements that write `leaderboard_entries`, or list what boards there are.

Ranks are counted while a session runs (see `boards`) and stored when it is closed.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg2.extras import Json

from core.database import Database
from core.queries.boards import build_entry, name_board
from core.queries.rows import count_changed, fetch_all, find_one
from core.records import LeaderboardEntry

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
# A function of the migrations, which is planned once a connection; gives the entry with its rank.
SET_SCORE = """
    SELECT * FROM leaderboard_set_score(
        %(id)s, %(user_id)s, %(day)s, %(category)s, %(score)s, %(metadata)s)"""
# In the order in which the rows are stored: in that of the board, each row would be on
# another page, which costs ten times as much once a board is larger than the server's memory.
CLOSE = """
    UPDATE leaderboard_entries e SET rank = ranked.place
    FROM (
        SELECT ctid, rank, rank() OVER (PARTITION BY category ORDER BY score DESC) AS place
        FROM leaderboard_entries WHERE session_date = %s ORDER BY ctid
    ) AS ranked
    WHERE e.ctid = ranked.ctid AND ranked.rank IS DISTINCT FROM ranked.place"""
# Two sorts of a million rows, and the join of its trigger.
SORT_MEMORY = "SET LOCAL work_mem = '128MB'"
RESET_MEMORY = "SET LOCAL work_mem TO DEFAULT"
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


def upsert_entries(
    database: Database,
    category: str,
    session_date: date,
    rows: Sequence[tuple[UUID, UUID, Any, Mapping[str, Any] | None]],
) -> set[UUID]:
    """Write (id, user, score, metadata) rows; return the users that exist."""
    ordered = sorted(rows, key=lambda row: row[1])
    parameters = name_board(
        category,
        session_date,
        ids=[row[0] for row in ordered],
        user_ids=[row[1] for row in ordered],
        scores=[row[2] for row in ordered],
        metadata=[None if row[3] is None else Json(dict(row[3])) for row in ordered],
    )
    return {row[0] for row in database.execute_sql(UPSERT, parameters).fetchall()}


def set_score(
    database: Database,
    category: str,
    session_date: date,
    row: tuple[UUID, UUID, Decimal, Mapping[str, Any] | None],
) -> LeaderboardEntry | None:
    """Write one (id, user, score, metadata) row and return the entry with its rank; None: no such user."""
    entry_id, user_id, score, metadata = row
    parameters = name_board(
        category,
        session_date,
        id=entry_id,
        user_id=user_id,
        score=score,
        metadata=Json(dict(metadata)) if metadata else "{}",
    )
    return find_one(database, build_entry, SET_SCORE, parameters)


def store_ranks(database: Database, session_date: date) -> int:
    """Store the rank of every entry of a session; return how many entries it has."""
    database.execute_sql(ANALYZE)
    database.execute_sql(SORT_MEMORY)
    count_changed(database, CLOSE, (session_date,))
    database.execute_sql(RESET_MEMORY)
    return int(database.execute_sql(COUNT_SESSION, (session_date,)).fetchone()[0])


def list_categories(database: Database, session_date: date) -> tuple[str, ...]:
    """Return the categories that have entries in a session."""
    found = fetch_all(database, lambda row: str(row[0]), LIST_CATEGORIES, {"day": session_date})
    # the locale of the database would put them in an order of its own
    return tuple(sorted(found))
