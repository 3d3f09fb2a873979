"""Statements that sum up the market and the sessions, each for all rows in one go.

What they cost follows from how much is shown, not from how much there is, except where
a board or the players are counted; the service caches those.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from core.database import Database
from core.queries.events import COLUMNS as EVENT_COLUMNS
from core.queries.events import build_event
from core.queries.rows import Row, fetch_all
from core.records import MarketEvent, SessionSummary, Sparkline

# Walks back from the latest price, one probe of the index for each point: reading all
# ticks of a day takes a thousand times as many rows. `beyond` is the end of tomorrow, as in
# `market`: with it the planner leaves out the default partition and goes from the newest to the
# oldest, and ticks of a far future count for nothing.
_WALK = """
    WITH RECURSIVE walk AS (
        SELECT s.symbol, t.timestamp, t.price, 1 AS place FROM {symbols} s
        CROSS JOIN LATERAL (
            SELECT timestamp, price FROM ticks WHERE symbol = s.symbol AND timestamp < %(beyond)s
            ORDER BY timestamp DESC LIMIT 1
        ) AS t
        UNION ALL
        SELECT w.symbol, t.timestamp, t.price, w.place + 1 FROM walk w
        CROSS JOIN LATERAL (
            SELECT timestamp, price FROM ticks
            WHERE symbol = w.symbol AND timestamp < %(beyond)s
              AND timestamp < date_bin(%(step)s, w.timestamp, '1999-12-27T00:00:00Z')
            ORDER BY timestamp DESC LIMIT 1
        ) AS t
        WHERE w.place < %(points)s
    )
    SELECT symbol, array_agg(timestamp ORDER BY timestamp), array_agg(price ORDER BY timestamp)
    FROM walk GROUP BY symbol ORDER BY symbol COLLATE "C" """
SPARKLINES = _WALK.format(symbols="(SELECT unnest(%(symbols)s::text[]) AS symbol)")
SPARKLINES_OF_ALL = _WALK.format(symbols="symbols")

# The driver puts values into the text, so the planner sees which filters there are.
EVENTS = f"""
    SELECT {EVENT_COLUMNS} FROM market_events
    WHERE (%(type)s IS NULL OR type = %(type)s)
      AND (%(sentiment)s IS NULL OR sentiment = %(sentiment)s)
      AND (%(symbol)s IS NULL OR affected_symbols @> ARRAY[%(symbol)s]::text[])
      AND (%(since)s IS NULL OR created_at >= %(since)s)
      AND (%(until)s IS NULL OR created_at < %(until)s)
      AND (%(before_id)s IS NULL OR (created_at, id) < (%(before)s, %(before_id)s))
    ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""
# Each step jumps to the next type in the index.
EVENT_TYPES = """
    WITH RECURSIVE types AS (
        (SELECT min(type) AS name FROM market_events)
        UNION ALL
        SELECT (SELECT min(type) FROM market_events WHERE type > name) FROM types WHERE name IS NOT NULL
    ) SELECT name FROM types WHERE name IS NOT NULL"""

# Each step jumps to the next older session in the index.
SESSION_DAYS = """
    WITH RECURSIVE days AS (
        (SELECT max(session_date) AS day, 1 AS place FROM leaderboard_entries
         WHERE session_date < %(before)s)
        UNION ALL
        SELECT (SELECT max(session_date) FROM leaderboard_entries WHERE session_date < day), place + 1
        FROM days WHERE day IS NOT NULL AND place < %(limit)s
    ) SELECT day FROM days WHERE day IS NOT NULL ORDER BY day DESC"""
# The size of a board is the sum of its counters; its best and its middle are read in the
# order of its index. Only quests are added up entry by entry, and players counted by day.
SESSIONS = """
    WITH joined AS MATERIALIZED (
        SELECT (created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS players FROM users GROUP BY 1
    )
    SELECT d.day,
           (SELECT COALESCE(sum(players), 0) FROM joined WHERE joined.day <= d.day)::bigint,
           board.players,
           (SELECT max(score) FROM leaderboard_entries
            WHERE session_date = d.day AND category = %(returns)s),
           (SELECT round(avg(score), 2) FROM (
                SELECT score FROM leaderboard_entries
                WHERE session_date = d.day AND category = %(returns)s
                ORDER BY score DESC OFFSET greatest(board.players - 1, 0) / 2 LIMIT 2 - mod(board.players, 2)
            ) AS middle),
           (SELECT sum(score) FROM leaderboard_entries
            WHERE session_date = d.day AND category = %(quests)s)::bigint,
           (SELECT count(*) FROM market_events
            WHERE created_at >= d.day::timestamp AT TIME ZONE 'UTC'
              AND created_at < (d.day + 1)::timestamp AT TIME ZONE 'UTC')
    FROM unnest(%(days)s::date[]) AS d (day) CROSS JOIN LATERAL (
        SELECT COALESCE(sum(entries), 0)::bigint AS players FROM leaderboard_counters
        WHERE session_date = d.day AND category = %(returns)s
    ) AS board"""
ACTIVE_SINCE = "SELECT count(*) FROM users WHERE last_active >= %s"


def build_sparkline(row: Row) -> Sparkline:
    """Build a sparkline from symbol, times and prices."""
    return Sparkline(row[0], tuple(row[1]), tuple(row[2]))


def build_session(row: Row) -> SessionSummary:
    """Build a summary from a row of SESSIONS."""
    return SessionSummary(*row)


def list_sparklines(
    database: Database, symbols: Sequence[str] | None, points: int, step: timedelta, beyond: datetime
) -> tuple[Sparkline, ...]:
    """Return the last price of each of the latest `points` steps with prices, by symbol (None: of all)."""
    parameters: dict[str, Any] = {"points": points, "step": step, "beyond": beyond}
    if symbols is None:
        return fetch_all(database, build_sparkline, SPARKLINES_OF_ALL, parameters)
    return fetch_all(database, build_sparkline, SPARKLINES, {**parameters, "symbols": list(symbols)})


def list_events(
    database: Database, filters: Mapping[str, Any], *, before: tuple[datetime, UUID] | None, limit: int
) -> tuple[MarketEvent, ...]:
    """Return the newest events that pass every filter that is not None.

    The filters are type, sentiment, symbol, since and until; `before` is a place in the order.
    """
    place, place_id = before or (None, None)
    parameters = {**filters, "before": place, "before_id": place_id, "limit": limit}
    return fetch_all(database, build_event, EVENTS, parameters)


def list_event_types(database: Database) -> tuple[str, ...]:
    """Return every type that an event has, in order whatever the locale of the database is."""
    return tuple(sorted(fetch_all(database, lambda row: str(row[0]), EVENT_TYPES)))


def list_session_days(database: Database, limit: int, before: date) -> tuple[date, ...]:
    """Return the newest sessions before a day that have a leaderboard, newest first."""
    return fetch_all(database, lambda row: row[0], SESSION_DAYS, {"limit": limit, "before": before})


def list_sessions(
    database: Database, days: Sequence[date], *, returns: str, quests: str
) -> tuple[SessionSummary, ...]:
    """Return sessions in figures, in no order."""
    parameters = {"days": list(days), "returns": returns, "quests": quests}
    return fetch_all(database, build_session, SESSIONS, parameters)


def count_active(database: Database, since: datetime) -> int:
    """Return how many players were active since a time."""
    return fetch_all(database, lambda row: int(row[0]), ACTIVE_SINCE, (since,))[0]
