"""Statements on `market_events`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from peewee import SQL

from core.database import Database
from core.models import MarketEvent as MarketEventModel
from core.queries.rows import Row, count_changed, fetch_all
from core.records import MarketEvent

COLUMNS = "id, type, title, description, affected_symbols, impact_magnitude, sentiment, created_at"

RECENT = f"""
    SELECT {COLUMNS} FROM market_events WHERE created_at < %s ORDER BY created_at DESC, id DESC LIMIT %s"""
DELETE = "DELETE FROM market_events WHERE id = %s"


def build_event(row: Row) -> MarketEvent:
    """Build an event from a row of COLUMNS."""
    values = [*row[:4], tuple(row[4]), *row[5:]]
    return MarketEvent(*values)


def list_recent(database: Database, end: datetime, limit: int) -> tuple[MarketEvent, ...]:
    """Return the most recent events before a time, newest first."""
    return fetch_all(database, build_event, RECENT, (end, limit))


def insert_event(database: Database, values: Mapping[str, Any]) -> MarketEvent:
    """Insert one event and return it."""
    columns = {getattr(MarketEventModel, name): value for name, value in values.items()}
    query = MarketEventModel.insert(columns).returning(SQL(COLUMNS))
    return build_event(query.tuples().execute(database)[0])


def delete_event(database: Database, event_id: UUID) -> bool:
    """Delete one event; say whether it existed."""
    return count_changed(database, DELETE, (event_id,)) == 1
