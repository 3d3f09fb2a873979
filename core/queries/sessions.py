"""Statements on the sessions of the game: their dates and their summaries, across tables."""

from collections.abc import Sequence
from datetime import date

from core.database import Database
from core.queries.rows import fetch_all, get_first, make_builder
from core.records import SessionSummary

# Each step jumps to the next older session in the index instead of reading every row.
DATES = """
    WITH RECURSIVE with_portfolios AS (
        (SELECT max(session_date) AS day FROM portfolios
         WHERE session_date < %(before)s)
        UNION ALL
        SELECT (SELECT max(session_date) FROM portfolios WHERE session_date < day)
        FROM with_portfolios WHERE day IS NOT NULL
    ), with_entries AS (
        (SELECT max(session_date) AS day FROM leaderboard_entries
         WHERE session_date < %(before)s)
        UNION ALL
        SELECT (SELECT max(session_date) FROM leaderboard_entries WHERE session_date < day)
        FROM with_entries WHERE day IS NOT NULL
    )
    SELECT day FROM (
        (SELECT day FROM with_portfolios WHERE day IS NOT NULL LIMIT %(limit)s)
        UNION
        (SELECT day FROM with_entries WHERE day IS NOT NULL LIMIT %(limit)s)
    ) AS days ORDER BY day DESC LIMIT %(limit)s"""
DATES_WITH_ENTRIES = """
    WITH RECURSIVE days AS (
        (SELECT max(session_date) AS day, 1 AS place FROM leaderboard_entries
         WHERE session_date < %(before)s)
        UNION ALL
        SELECT (SELECT max(session_date) FROM leaderboard_entries WHERE session_date < day), place + 1
        FROM days WHERE day IS NOT NULL AND place < %(limit)s
    ) SELECT day FROM days WHERE day IS NOT NULL ORDER BY day DESC"""
# The size of a leaderboard is the sum of its counters; its best and median scores are read in the order
# of its index. Only quests are added up entry by entry; users and market events are counted row by row.
SUMMARIES = """
    WITH joined AS MATERIALIZED (
        SELECT (created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS players FROM users GROUP BY 1
    )
    SELECT d.day,
           (SELECT COALESCE(sum(players), 0) FROM joined WHERE joined.day <= d.day)::bigint,
           counted.players,
           (SELECT max(score) FROM leaderboard_entries
            WHERE session_date = d.day AND category = %(returns)s),
           (SELECT round(avg(score), 2) FROM (
                SELECT score FROM leaderboard_entries
                WHERE session_date = d.day AND category = %(returns)s
                ORDER BY score DESC
                OFFSET greatest(counted.players - 1, 0) / 2 LIMIT 2 - mod(counted.players, 2)
            ) AS middle),
           (SELECT sum(score) FROM leaderboard_entries
            WHERE session_date = d.day AND category = %(quests)s)::bigint,
           (SELECT count(*) FROM market_events
            WHERE created_at >= d.day::timestamp AT TIME ZONE 'UTC'
              AND created_at < (d.day + 1)::timestamp AT TIME ZONE 'UTC')
    FROM unnest(%(days)s::date[]) AS d (day) CROSS JOIN LATERAL (
        SELECT COALESCE(sum(entries), 0)::bigint AS players FROM leaderboard_counters
        WHERE session_date = d.day AND category = %(returns)s
    ) AS counted"""

build_summary = make_builder(SessionSummary)


def list_dates(database: Database, limit: int, before: date) -> tuple[date, ...]:
    """Return the sessions before a date that have portfolios or leaderboard entries, newest first."""
    return fetch_all(database, get_first, DATES, {"limit": limit, "before": before})


def list_dates_with_entries(database: Database, limit: int, before: date) -> tuple[date, ...]:
    """Return the sessions before a date that have leaderboard entries, newest first."""
    return fetch_all(database, get_first, DATES_WITH_ENTRIES, {"limit": limit, "before": before})


def list_summaries(
    database: Database, days: Sequence[date], *, returns: str, quests: str
) -> tuple[SessionSummary, ...]:
    """Return the summaries of sessions in any order; `returns` and `quests` are categories."""
    parameters = {"days": list(days), "returns": returns, "quests": quests}
    return fetch_all(database, build_summary, SUMMARIES, parameters)
