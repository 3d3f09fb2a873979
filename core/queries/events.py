"""Statements on `market_events`."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from peewee import SQL

from core.database import Database
from core.models import MarketEvent as MarketEventModel
from core.queries.rows import count_changed, fetch_all, find_one, list_columns, make_builder
from core.records import DAILY_RETURNS, EVENT_DAYS, MarketEvent, TradingSession, TradingWindow

COLUMNS = list_columns(MarketEvent)

RECENT = f"""
    SELECT {COLUMNS} FROM market_events WHERE created_at < %s ORDER BY created_at DESC, id DESC LIMIT %s"""
DELETE = "DELETE FROM market_events WHERE id = %s"


# psycopg2 puts the values into the text of the statement. So the planner knows which filters are None.
FILTERED = f"""
    SELECT {COLUMNS} FROM market_events
    WHERE (%(type)s IS NULL OR type = %(type)s)
      AND (%(sentiment)s IS NULL OR sentiment = %(sentiment)s)
      AND (%(symbol)s IS NULL OR affected_symbols @> ARRAY[%(symbol)s]::text[])
      AND (%(since)s IS NULL OR created_at >= %(since)s)
      AND (%(until)s IS NULL OR created_at < %(until)s)
      AND (%(after_id)s IS NULL OR (created_at, id) < (%(after)s, %(after_id)s))
    ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""
# Each step of the recursion jumps to the next type in the index, instead of reading every event.
TYPES = """
    WITH RECURSIVE types AS (
        (SELECT min(type) AS name FROM market_events)
        UNION ALL
        SELECT (SELECT min(type) FROM market_events WHERE type > name) FROM types WHERE name IS NOT NULL
    ) SELECT name FROM types WHERE name IS NOT NULL"""
FIND = f"SELECT {COLUMNS} FROM market_events WHERE id = %s"
# Trades are first grouped by player: count(DISTINCT user_id) would sort all trades.
WINDOWS = """
    SELECT w.start, w.stop, t.traders, t.trades
    FROM (VALUES (%(time)s - %(width)s, %(time)s), (%(time)s, %(time)s + %(width)s)) AS w (start, stop)
    CROSS JOIN LATERAL (
        SELECT count(*) AS traders, COALESCE(sum(trades), 0)::bigint AS trades FROM (
            SELECT count(*) AS trades FROM trades WHERE executed_at >= w.start AND executed_at < w.stop
            GROUP BY user_id
        ) AS players
    ) AS t
    ORDER BY w.start"""
SESSIONS = """
    SELECT d.day,
           (SELECT count(*) FROM portfolios WHERE session_date = d.day),
           t.traders, t.trades,
           (SELECT round(percentile_cont(0.5) WITHIN GROUP (ORDER BY score)::numeric, 2)
            FROM leaderboard_entries WHERE session_date = d.day AND category = %(returns)s)
    FROM (
        SELECT max(session_date) AS day FROM portfolios
        WHERE session_date < %(day)s AND session_date >= %(day)s - %(nearby)s
        UNION ALL
        SELECT max(session_date) FROM portfolios WHERE session_date = %(day)s
        UNION ALL
        SELECT min(session_date) FROM portfolios
        WHERE session_date > %(day)s AND session_date <= %(day)s + %(nearby)s AND session_date < %(beyond)s
    ) AS d
    CROSS JOIN LATERAL (
        SELECT count(*) AS traders, COALESCE(sum(trades), 0)::bigint AS trades FROM (
            SELECT count(*) AS trades FROM trades WHERE session_date = d.day GROUP BY user_id
        ) AS players
    ) AS t
    WHERE d.day IS NOT NULL ORDER BY d.day"""

build_event = make_builder(MarketEvent, affected_symbols=tuple)
build_window = make_builder(TradingWindow)
build_session = make_builder(TradingSession)


def list_recent(database: Database, end: datetime, limit: int) -> tuple[MarketEvent, ...]:
    """Return up to `limit` of the newest events before the time `end`, newest first."""
    return fetch_all(database, build_event, RECENT, (end, limit))


def list_events(
    database: Database, filters: Mapping[str, Any], *, after: tuple[datetime, UUID] | None, limit: int
) -> tuple[MarketEvent, ...]:
    """Return up to `limit` of the newest events that match every filter that is not None, newest first.

    The keys of `filters` are type, sentiment, symbol, since and until. `after` is the time and id of the last
    event of the previous page.
    """
    created_at, event_id = after or (None, None)
    parameters = {**filters, "after": created_at, "after_id": event_id, "limit": limit}
    return fetch_all(database, build_event, FILTERED, parameters)


def find_event(database: Database, event_id: UUID) -> MarketEvent | None:
    """Return the event with this id, or None."""
    return find_one(database, build_event, FIND, (event_id,))


def list_windows(database: Database, time: datetime, width: timedelta) -> tuple[TradingWindow, ...]:
    """Return the numbers of trades and traders in the `width` before `time`, and in the `width` after it."""
    return fetch_all(database, build_window, WINDOWS, {"time": time, "width": width})


def list_sessions(database: Database, day: date, *, beyond: date) -> tuple[TradingSession, ...]:
    """Return the session of a day, the previous session and the next session, oldest first.

    A session is left out if it does not exist or is more than `EVENT_DAYS` days away. The next session is
    also left out if it is on or after the day `beyond`.
    """
    parameters = {"day": day, "beyond": beyond, "returns": DAILY_RETURNS, "nearby": EVENT_DAYS}
    return fetch_all(database, build_session, SESSIONS, parameters)


def list_types(database: Database) -> tuple[str, ...]:
    """Return every type that events have, sorted by code points."""
    return tuple(sorted(fetch_all(database, lambda row: str(row[0]), TYPES)))


def insert_event(database: Database, values: Mapping[str, Any]) -> MarketEvent:
    """Insert an event, given as values by column name, and return it."""
    columns = {getattr(MarketEventModel, name): value for name, value in values.items()}
    query = MarketEventModel.insert(columns).returning(SQL(COLUMNS))
    return build_event(query.tuples().execute(database)[0])


def delete_event(database: Database, event_id: UUID) -> bool:
    """Delete an event, and return whether it existed."""
    return count_changed(database, DELETE, (event_id,)) == 1
