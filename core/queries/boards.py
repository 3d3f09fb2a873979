"""Statements that read boards: pages, ranks, neighbours.

A board is a category in a session, ordered by score, then by who came first, then by id.
That order is the index's. How many entries stand before a place is the sum of
`leaderboard_counters` before the bucket of the place, and a count within that bucket, so no
statement reads more of a board than one bucket, the counters and the rows it returns.
"""

from collections.abc import Mapping
from datetime import date
from typing import Any
from uuid import UUID

from core.database import Database
from core.queries.rows import Row, fetch_all, find_one
from core.records import LeaderboardEntry, freeze

_ENTRY = "e.id, e.user_id, u.username, e.session_date, e.category, e.score"
_REST = "e.metadata, e.created_at"
_BOARD = "session_date = %(day)s AND category = %(category)s"


def _count(condition: str, score: str) -> str:
    """Return an expression: how many entries have a score > (or >=) `score`.

    Counts within the last bucket that begins in that range, `depth` being minus the score.
    """
    deeper = condition.replace(">", "<")
    return f"""COALESCE((
        SELECT (SELECT COALESCE(sum(entries), 0) FROM leaderboard_counters
                WHERE {_BOARD} AND (depth, created_at, id) < (f.depth, f.created_at, f.id))
             + (SELECT count(*) FROM leaderboard_entries
                WHERE {_BOARD} AND score = -f.depth AND (created_at, id) >= (f.created_at, f.id))
             + (SELECT count(*) FROM leaderboard_entries
                WHERE {_BOARD} AND score < -f.depth AND score {condition} {score})
        FROM (SELECT depth, created_at, id FROM leaderboard_counters
              WHERE {_BOARD} AND depth {deeper} -{score}
              ORDER BY depth DESC, created_at DESC, id DESC LIMIT 1) AS f), 0)::bigint"""


TOP = f"""
    WITH page AS MATERIALIZED (
        SELECT * FROM leaderboard_entries WHERE {_BOARD}
        ORDER BY score DESC, created_at, id LIMIT %(limit)s
    )
    SELECT {_ENTRY}, rank() OVER (ORDER BY e.score DESC), {_REST}
    FROM page e JOIN users u ON u.id = e.user_id
    ORDER BY e.score DESC, e.created_at, e.id"""
# The bucket that holds the offset, and what of it stands before the page. Only the first
# score of a page may have equals before it; its rank is counted, all others follow from
# their place.
PAGE = f"""
    WITH bucket AS MATERIALIZED (
        SELECT depth, created_at, id, (%(offset)s - before)::bigint AS skipped FROM (
            SELECT depth, created_at, id,
                   sum(sum(entries)) OVER (ORDER BY depth, created_at, id) - sum(entries) AS before
            FROM leaderboard_counters WHERE {_BOARD} GROUP BY depth, created_at, id
        ) AS buckets
        WHERE before <= %(offset)s ORDER BY depth DESC, created_at DESC, id DESC LIMIT 1
    ), page AS MATERIALIZED (
        SELECT * FROM (
            (SELECT id, score, created_at FROM leaderboard_entries
             WHERE {_BOARD} AND score = (SELECT -depth FROM bucket)
               AND (created_at, id) >= ((SELECT created_at FROM bucket), (SELECT id FROM bucket))
             ORDER BY created_at, id LIMIT (SELECT skipped + %(limit)s FROM bucket))
            UNION ALL
            (SELECT id, score, created_at FROM leaderboard_entries
             WHERE {_BOARD} AND score < (SELECT -depth FROM bucket)
             ORDER BY score DESC, created_at, id LIMIT (SELECT skipped + %(limit)s FROM bucket))
        ) AS rest
        ORDER BY score DESC, created_at, id LIMIT %(limit)s OFFSET (SELECT skipped FROM bucket)
    ), first AS MATERIALIZED (
        SELECT score, {_count(">", "s.score")} AS higher FROM (SELECT max(score) AS score FROM page) AS s
    )
    SELECT {_ENTRY},
           CASE WHEN e.score = first.score THEN 1 + first.higher
                ELSE %(offset)s + rank() OVER (ORDER BY e.score DESC) END,
           {_REST}
    FROM page CROSS JOIN first JOIN leaderboard_entries e ON e.id = page.id
    JOIN users u ON u.id = e.user_id
    ORDER BY e.score DESC, e.created_at, e.id"""
# A function of the migrations, like that of a single score: planning it takes longer than running it.
RANK = "SELECT * FROM leaderboard_rank(%(user_id)s, %(day)s, %(category)s)"
# Not a join: the planner knows of these that they are one value, and then that the index
# has the order, so that it stops at the limit.
_MINE = {name: f"(SELECT {name} FROM me)" for name in ("score", "created_at", "id")}
# Four short scans of the index from the player's place: equals and others, above and below.
AROUND = f"""
    WITH me AS MATERIALIZED (
        SELECT score, created_at, id FROM leaderboard_entries
        WHERE user_id = %(user_id)s AND session_date = %(day)s AND category = %(category)s
    ), above AS (
        SELECT * FROM (
            (SELECT * FROM leaderboard_entries WHERE {_BOARD} AND score = {_MINE["score"]}
               AND (created_at, id) < ({_MINE["created_at"]}, {_MINE["id"]})
             ORDER BY created_at DESC, id DESC LIMIT %(radius)s)
            UNION ALL
            (SELECT * FROM leaderboard_entries WHERE {_BOARD} AND score > {_MINE["score"]}
             ORDER BY score, created_at DESC, id DESC LIMIT %(radius)s)
        ) AS a ORDER BY score, created_at DESC, id DESC LIMIT %(radius)s
    ), below AS (
        SELECT * FROM (
            (SELECT * FROM leaderboard_entries WHERE {_BOARD} AND score = {_MINE["score"]}
               AND (created_at, id) >= ({_MINE["created_at"]}, {_MINE["id"]})
             ORDER BY created_at, id LIMIT %(radius)s + 1)
            UNION ALL
            (SELECT * FROM leaderboard_entries WHERE {_BOARD} AND score < {_MINE["score"]}
             ORDER BY score DESC, created_at, id LIMIT %(radius)s)
        ) AS b ORDER BY score DESC, created_at, id LIMIT %(radius)s + 1
    ), page AS MATERIALIZED (
        SELECT * FROM above UNION ALL SELECT * FROM below
    ), first AS MATERIALIZED (
        SELECT score, {_count(">", "s.score")} AS higher, {_count(">=", "s.score")} AS as_high
        FROM (SELECT max(score) AS score FROM page) AS s
    )
    SELECT {_ENTRY},
           -- of the first score's equals, some may stand before the page
           CASE WHEN e.score = first.score THEN 1 + first.higher
                ELSE first.as_high - count(*) FILTER (WHERE e.score = first.score) OVER ()
                     + rank() OVER (ORDER BY e.score DESC) END,
           {_REST}
    FROM page e CROSS JOIN first JOIN users u ON u.id = e.user_id
    ORDER BY e.score DESC, e.created_at, e.id"""


def build_entry(row: Row) -> LeaderboardEntry:
    """Build an entry from a row of any of these statements."""
    values = [*row[:7], freeze(row[7]), row[8]]
    return LeaderboardEntry(*values)


def list_page(
    database: Database, category: str, session_date: date, limit: int, offset: int
) -> tuple[LeaderboardEntry, ...]:
    """Return `limit` entries of a board from place `offset` on."""
    parameters = name_board(category, session_date, limit=limit, offset=offset)
    return _fetch(database, PAGE if offset else TOP, parameters)


def find_rank(
    database: Database, user_id: UUID, category: str, session_date: date
) -> LeaderboardEntry | None:
    """Return a player's entry with its rank."""
    parameters = name_board(category, session_date, user_id=user_id)
    return find_one(database, build_entry, RANK, parameters)


def list_around(
    database: Database, user_id: UUID, category: str, session_date: date, radius: int
) -> tuple[LeaderboardEntry, ...]:
    """Return up to `radius` entries on each side of a player's, and that entry."""
    parameters = name_board(category, session_date, user_id=user_id, radius=radius)
    return _fetch(database, AROUND, parameters)


def name_board(category: str, session_date: date, **more: Any) -> dict[str, Any]:
    """Return the parameters that name a board, and more."""
    return {"category": category, "day": session_date, **more}


def _fetch(database: Database, statement: str, parameters: Mapping[str, Any]) -> tuple[LeaderboardEntry, ...]:
    return fetch_all(database, build_entry, statement, parameters)
