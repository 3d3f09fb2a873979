"""Statements on `market_events`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from peewee import SQL

from core.database import Database
from core.models import MarketEvent as MarketEventModel
from core.queries.rows import count_changed, fetch_all, list_columns, make_builder
from core.records import MarketEvent

COLUMNS = list_columns(MarketEvent)

RECENT = f"""
    SELECT {COLUMNS} FROM market_events WHERE created_at < %s ORDER BY created_at DESC, id DESC LIMIT %s"""
DELETE = "DELETE FROM market_events WHERE id = %s"


# psycopg2 puts the values into the text, so the planner knows which filters are None.
FILTERED = f"""
    SELECT {COLUMNS} FROM market_events
    WHERE (%(type)s IS NULL OR type = %(type)s)
      AND (%(sentiment)s IS NULL OR sentiment = %(sentiment)s)
      AND (%(symbol)s IS NULL OR affected_symbols @> ARRAY[%(symbol)s]::text[])
      AND (%(since)s IS NULL OR created_at >= %(since)s)
      AND (%(until)s IS NULL OR created_at < %(until)s)
      AND (%(after_id)s IS NULL OR (created_at, id) < (%(after)s, %(after_id)s))
    ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""
# Each step jumps to the next type in the index.
TYPES = """
    WITH RECURSIVE types AS (
        (SELECT min(type) AS name FROM market_events)
        UNION ALL
        SELECT (SELECT min(type) FROM market_events WHERE type > name) FROM types WHERE name IS NOT NULL
    ) SELECT name FROM types WHERE name IS NOT NULL"""

build_event = make_builder(MarketEvent, affected_symbols=tuple)


def list_recent(database: Database, end: datetime, limit: int) -> tuple[MarketEvent, ...]:
    """Return the most recent events before a time, newest first."""
    return fetch_all(database, build_event, RECENT, (end, limit))


def list_events(
    database: Database, filters: Mapping[str, Any], *, after: tuple[datetime, UUID] | None, limit: int
) -> tuple[MarketEvent, ...]:
    """Return the newest events that pass every filter that is not None.

    The filters are type, sentiment, symbol, since and until; `after` is the place (time and id) of the
    last event of the page before.
    """
    created_at, event_id = after or (None, None)
    parameters = {**filters, "after": created_at, "after_id": event_id, "limit": limit}
    return fetch_all(database, build_event, FILTERED, parameters)


def list_types(database: Database) -> tuple[str, ...]:
    """Return every type of an event, sorted by code points, unlike the collation of the database."""
    return tuple(sorted(fetch_all(database, lambda row: str(row[0]), TYPES)))


def insert_event(database: Database, values: Mapping[str, Any]) -> MarketEvent:
    """Insert one event and return it."""
    columns = {getattr(MarketEventModel, name): value for name, value in values.items()}
    query = MarketEventModel.insert(columns).returning(SQL(COLUMNS))
    return build_event(query.tuples().execute(database)[0])


def delete_event(database: Database, event_id: UUID) -> bool:
    """Delete one event; say whether it existed."""
    return count_changed(database, DELETE, (event_id,)) == 1
