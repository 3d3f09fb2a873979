"""Statements on `audit_events`."""

from datetime import datetime
from uuid import UUID

from core.database import Database
from core.queries.rows import Row, fetch_all, find_one
from core.records import AuditAction, AuditEvent, AuditOutcome

COLUMNS = "id, actor, action, target, outcome, detail, created_at, finished_at"

INSERT = f"""
    INSERT INTO audit_events (id, actor, action, target, outcome, created_at)
    VALUES (%s, %s, %s, %s, 'started', %s) RETURNING {COLUMNS}"""
# an outcome is written once: nothing rewrites what happened
FINISH = f"""
    UPDATE audit_events SET outcome = %s, detail = %s, finished_at = %s
    WHERE id = %s AND outcome = 'started' RETURNING {COLUMNS}"""
RECENT = f"""
    SELECT {COLUMNS} FROM audit_events
    WHERE %(after_id)s::uuid IS NULL OR (created_at, id) < (%(after)s::timestamptz, %(after_id)s::uuid)
    ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""


def insert_event(
    database: Database, event_id: UUID, *, actor: str, action: AuditAction, target: str, now: datetime
) -> AuditEvent:
    """Insert an action that is about to be done."""
    [event] = fetch_all(database, _build, INSERT, (event_id, actor, action, target, now))
    return event


def finish_event(
    database: Database, event_id: UUID, *, outcome: AuditOutcome, detail: str | None, now: datetime
) -> AuditEvent | None:
    """Write the outcome of an action; None when it has one already, or there is none."""
    return find_one(database, _build, FINISH, (outcome, detail, now, event_id))


def list_recent(
    database: Database, limit: int, *, after: tuple[datetime, UUID] | None = None
) -> tuple[AuditEvent, ...]:
    """Return the most recent actions, newest first, from behind a place in that order on."""
    created_at, event_id = after or (None, None)
    parameters = {"after": created_at, "after_id": event_id, "limit": limit}
    return fetch_all(database, _build, RECENT, parameters)


def _build(row: Row) -> AuditEvent:
    return AuditEvent(*row)
