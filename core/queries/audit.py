"""Statements on `audit_events`: actions of operators, and changes of rows, which triggers write.

Rows are only inserted: the outcome of an action is a second event, which names the first.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from core.database import Database
from core.queries.rows import Row, fetch_all
from core.records import AuditEvent, freeze

INSERT = """
    INSERT INTO audit_events (id, created_at, actor, action, target, outcome, detail, request_id, start_id)
    VALUES (%(id)s, %(created_at)s, %(actor)s, %(action)s, %(target)s, %(outcome)s, %(detail)s,
            %(request_id)s, %(start_id)s)"""
# The first comparison lets the planner skip the partitions of whole months.
_PAGE = """(%(after_id)s::uuid IS NULL
               OR e.created_at <= %(after)s::timestamptz
                  AND (e.created_at, e.id) < (%(after)s::timestamptz, %(after_id)s::uuid))
        ORDER BY e.created_at DESC, e.id DESC LIMIT %(limit)s"""


def _select(**columns: str) -> str:
    """Return the columns in the order of the record's fields."""
    return ", ".join(columns.get(name, f"e.{name}") for name in AuditEvent.__struct_fields__)


_ACTION = _select(
    outcome="COALESCE(o.outcome, e.outcome)",
    detail="COALESCE(o.detail, e.detail)",
    finished_at="CASE e.outcome WHEN 'started' THEN o.created_at ELSE e.created_at END",
)
# Selected as text, because the driver would turn amounts into inexact numbers.
_CHANGE = _select(before="before::text", after="after::text", finished_at="e.created_at")
# An outcome is never earlier than the start of its action, so the months before are not searched. The first
# outcome counts: a recorded outcome is never replaced.
ACTIONS = f"""
    SELECT {_ACTION} FROM (
        SELECT * FROM audit_events e WHERE row_key IS NULL AND start_id IS NULL AND {_PAGE}
    ) AS e LEFT JOIN LATERAL (
        SELECT outcome, detail, created_at FROM audit_events
        WHERE start_id = e.id AND created_at >= e.created_at ORDER BY created_at LIMIT 1
    ) AS o ON e.outcome = 'started'
    ORDER BY e.created_at DESC, e.id DESC"""
CHANGES = f"SELECT {_CHANGE} FROM audit_events e WHERE row_key IS NOT NULL AND {_PAGE}"
CHANGES_OF_ROW = f"SELECT {_CHANGE} FROM audit_events e WHERE row_key = %(row_key)s AND {_PAGE}"


def insert_event(
    database: Database,
    event: AuditEvent,
    *,
    event_id: UUID | None = None,
    created_at: datetime | None = None,
    start_id: UUID | None = None,
) -> None:
    """Insert an event; with `start_id` it is the outcome of an action, and has its own id and time."""
    names = ("actor", "action", "target", "outcome", "detail", "request_id")
    values: dict[str, Any] = {name: getattr(event, name) for name in names}
    values |= {
        "id": event_id or event.id,
        "created_at": created_at or event.created_at,
        "start_id": start_id,
    }
    database.execute_sql(INSERT, values)


def list_actions(
    database: Database, limit: int, *, after: tuple[datetime, UUID] | None = None
) -> tuple[AuditEvent, ...]:
    """Return the actions with their outcomes, newest first, that follow the place `after`."""
    return fetch_all(database, _build, ACTIONS, _page(limit, after))


def list_changes(
    database: Database,
    limit: int,
    *,
    after: tuple[datetime, UUID] | None = None,
    row_key: UUID | None = None,
) -> tuple[AuditEvent, ...]:
    """Return the changes of all rows, or of one, newest first, that follow the place `after`."""
    statement = CHANGES if row_key is None else CHANGES_OF_ROW
    return fetch_all(database, _build, statement, {**_page(limit, after), "row_key": row_key})


def _page(limit: int, after: tuple[datetime, UUID] | None) -> Mapping[str, Any]:
    created_at, event_id = after or (None, None)
    return {"after": created_at, "after_id": event_id, "limit": limit}


def _build(row: Row) -> AuditEvent:
    return AuditEvent(*(*row[:-2], _decode(row[-2]), _decode(row[-1])))


def _decode(document: str | None) -> Any:
    return None if document is None else freeze(json.loads(document, parse_float=Decimal))
