"""Statements on the sessions of the game: their dates, their summaries and the players who were seen."""

from collections.abc import Sequence
from datetime import date

from core.database import Database
from core.queries.rows import fetch_all, fetch_number, get_first, make_builder
from core.records import SeenPlayers, SessionSummary

# Each step of the recursions jumps to the next older session in the index, instead of reading every row.
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
# The size of a leaderboard is the sum of its counters. Its best and median scores are read in the order of
# its index. Users are counted once, for all sessions. The other counts read one range of an index for each
# session.
SUMMARIES = """
    WITH joined AS MATERIALIZED (
        SELECT (created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS players FROM users GROUP BY 1
    )
    SELECT d.day,
           (SELECT COALESCE(sum(players), 0) FROM joined WHERE joined.day <= d.day)::bigint,
           (SELECT count(*) FROM portfolios WHERE session_date = d.day),
           (SELECT count(DISTINCT user_id) FROM trades WHERE session_date = d.day),
           counted.players,
           (SELECT max(score) FROM leaderboard_entries
            WHERE session_date = d.day AND category = %(returns)s),
           (SELECT round(avg(score), 2) FROM (
                SELECT score FROM leaderboard_entries
                WHERE session_date = d.day AND category = %(returns)s
                ORDER BY score DESC
                OFFSET greatest(counted.players - 1, 0) / 2 LIMIT 2 - mod(counted.players, 2)
            ) AS middle),
           (SELECT count(*) FROM quests
            WHERE completed_at >= d.begin AND completed_at < d.finish),
           (SELECT count(*) FROM market_events WHERE created_at >= d.begin AND created_at < d.finish)
    FROM (
        SELECT day, day::timestamp AT TIME ZONE 'UTC' AS begin,
               (day + 1)::timestamp AT TIME ZONE 'UTC' AS finish
        FROM unnest(%(days)s::date[]) AS days (day)
    ) AS d CROSS JOIN LATERAL (
        SELECT COALESCE(sum(entries), 0)::bigint AS players FROM leaderboard_counters
        WHERE session_date = d.day AND category = %(returns)s
    ) AS counted"""

SEEN = """
    SELECT count(*), (SELECT count(*) FROM users) FROM (
        SELECT id FROM users WHERE last_active >= %(first)s::timestamp AT TIME ZONE 'UTC'
        UNION
        SELECT user_id FROM portfolios WHERE session_date BETWEEN %(first)s AND %(last)s
    ) AS seen"""

UNDATED = "SELECT count(*) FROM quests WHERE status = 'COMPLETED' AND completed_at IS NULL"

build_summary = make_builder(SessionSummary)
build_seen = make_builder(SeenPlayers)


def list_dates(database: Database, limit: int, before: date) -> tuple[date, ...]:
    """Return the dates of up to `limit` sessions that have portfolios or leaderboard entries, newest first.

    Only sessions before the date `before` are returned.
    """
    return fetch_all(database, get_first, DATES, {"limit": limit, "before": before})


def list_dates_with_entries(database: Database, limit: int, before: date) -> tuple[date, ...]:
    """Return the dates of up to `limit` sessions that have leaderboard entries, newest first.

    Only sessions before the date `before` are returned.
    """
    return fetch_all(database, get_first, DATES_WITH_ENTRIES, {"limit": limit, "before": before})


def get_seen(database: Database, first: date, last: date) -> SeenPlayers:
    """Return how many players were seen since `first`, and how many players exist.

    A player was seen if they were active on the day `first` or later, or if they have a portfolio of a day
    from `first` to `last`.
    """
    return fetch_all(database, build_seen, SEEN, {"first": first, "last": last})[0]


def count_undated(database: Database) -> int:
    """Return the number of completed quests without a time of completion."""
    return fetch_number(database, UNDATED)


def list_summaries(database: Database, days: Sequence[date], *, returns: str) -> tuple[SessionSummary, ...]:
    """Return the summaries of the sessions `days` in any order.

    `returns` is the category of the leaderboard of daily returns.
    """
    return fetch_all(database, build_summary, SUMMARIES, {"days": list(days), "returns": returns})
