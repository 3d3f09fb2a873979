"""Statements on `positions` and `trades`."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from core.database import Database
from core.queries.rows import fetch_all
from core.records import Position, Trade

# A record's fields are the columns, in the order in which a row becomes a record.
POSITIONS = f"""
    SELECT {", ".join(Position.__struct_fields__)} FROM positions
    WHERE user_id = ANY(%s::uuid[]) AND session_date = %s ORDER BY user_id, symbol"""
TRADES = f"""
    SELECT {", ".join(Trade.__struct_fields__)} FROM trades
    WHERE user_id = ANY(%s::uuid[]) AND session_date = %s ORDER BY user_id, executed_at, id"""


def list_positions(database: Database, user_ids: Sequence[UUID], day: date) -> tuple[Position, ...]:
    """Return what these players hold in a session, by player and symbol."""
    return fetch_all(database, lambda row: Position(*row), POSITIONS, (list(user_ids), day))


def list_trades(database: Database, user_ids: Sequence[UUID], day: date) -> tuple[Trade, ...]:
    """Return what these players traded in a session, by player in the order of execution."""
    return fetch_all(database, lambda row: Trade(*row), TRADES, (list(user_ids), day))
