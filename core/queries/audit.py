"""Statements on `audit_events`, the table of the audit log.

An event is an action of a person, or a change of a row by a person. Triggers write the changes of rows.
Events are inserted and never updated. So the outcome of an action is a second event: its `start_id` is the id
of the first event.
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
# The row comparison implies `created_at <= after`. The planner needs this condition too, to skip the monthly
# partitions after that time.
_PAGE = """(%(after_id)s::uuid IS NULL
               OR e.created_at <= %(after)s::timestamptz
                  AND (e.created_at, e.id) < (%(after)s::timestamptz, %(after_id)s::uuid))
        ORDER BY e.created_at DESC, e.id DESC LIMIT %(limit)s"""


def _select(**expressions: str) -> str:
    """Return the SELECT list of an `AuditEvent`: columns of `e`, or the expressions given for some fields."""
    return ", ".join(expressions.get(name, f"e.{name}") for name in AuditEvent.__struct_fields__)


_ACTION = _select(
    outcome="COALESCE(o.outcome, e.outcome)",
    detail="COALESCE(o.detail, e.detail)",
    finished_at="CASE e.outcome WHEN 'started' THEN o.created_at ELSE e.created_at END",
)
# `before` and `after` are selected as text, because the driver would decode their numbers as inexact floats.
_CHANGE = _select(before="before::text", after="after::text", finished_at="e.created_at")
# An outcome is never earlier than the start of its action, so the search skips earlier months. The first
# outcome of an action counts: a later outcome does not replace it.
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
    start_id: UUID | None = None,
) -> None:
    """Insert an event.

    With `start_id` the event is an outcome: `start_id` is the id of the event that started the action.
    """
    names = ("id", "created_at", "actor", "action", "target", "outcome", "detail", "request_id")
    values = {name: getattr(event, name) for name in names}
    database.execute_sql(INSERT, {**values, "start_id": start_id})


def list_actions(
    database: Database, limit: int, *, after: tuple[datetime, UUID] | None
) -> tuple[AuditEvent, ...]:
    """Return a page of up to `limit` actions with their outcomes, newest first.

    `after` is the time and id of the last action of the previous page.
    """
    return fetch_all(database, _build, ACTIONS, _page(limit, after))


def list_changes(
    database: Database,
    limit: int,
    *,
    after: tuple[datetime, UUID] | None,
    row_key: UUID | None = None,
) -> tuple[AuditEvent, ...]:
    """Return a page of up to `limit` changes of rows, newest first.

    `after` is the time and id of the last change of the previous page. With `row_key`, only changes of the
    row with this id are returned.
    """
    statement = CHANGES if row_key is None else CHANGES_OF_ROW
    return fetch_all(database, _build, statement, {**_page(limit, after), "row_key": row_key})


def _page(limit: int, after: tuple[datetime, UUID] | None) -> Mapping[str, Any]:
    created_at, event_id = after or (None, None)
    return {"after": created_at, "after_id": event_id, "limit": limit}


def _build(row: Row) -> AuditEvent:
    return AuditEvent(*(*row[:-2], _decode(row[-2]), _decode(row[-1])))


def _decode(document: str | None) -> Any:
    return None if document is None else freeze(json.loads(document, parse_float=Decimal))
