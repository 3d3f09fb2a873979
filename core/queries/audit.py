"""Statements on `audit_events`."""

from datetime import datetime
from uuid import UUID

from core.database import Database
from core.queries.rows import count_changed, fetch_all, find_one, list_columns, make_builder
from core.records import AuditAction, AuditEvent, AuditOutcome

COLUMNS = list_columns(AuditEvent)

INSERT = f"""
    INSERT INTO audit_events (id, actor, action, target, outcome, created_at)
    VALUES (%s, %s, %s, %s, 'started', %s) RETURNING {COLUMNS}"""
# only while it is `started`: a recorded outcome is never overwritten
FINISH = f"""
    UPDATE audit_events SET outcome = %s, detail = %s, finished_at = %s
    WHERE id = %s AND outcome = 'started' RETURNING {COLUMNS}"""
RECENT = f"""
    SELECT {COLUMNS} FROM audit_events
    WHERE %(after_id)s::uuid IS NULL OR (created_at, id) < (%(after)s::timestamptz, %(after_id)s::uuid)
    ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""
DELETE = "DELETE FROM audit_events WHERE actor = %s AND target = %s"

build_event = make_builder(AuditEvent)


def insert_event(
    database: Database, event_id: UUID, *, actor: str, action: AuditAction, target: str, now: datetime
) -> AuditEvent:
    """Insert an action that is about to start."""
    [event] = fetch_all(database, build_event, INSERT, (event_id, actor, action, target, now))
    return event


def finish_event(
    database: Database, event_id: UUID, *, outcome: AuditOutcome, detail: str | None, now: datetime
) -> AuditEvent | None:
    """Write the outcome of a started action and return it; None when there is no such action."""
    return find_one(database, build_event, FINISH, (outcome, detail, now, event_id))


def list_recent(
    database: Database, limit: int, *, after: tuple[datetime, UUID] | None = None
) -> tuple[AuditEvent, ...]:
    """Return the most recent actions, newest first, that follow the place `after`."""
    created_at, event_id = after or (None, None)
    parameters = {"after": created_at, "after_id": event_id, "limit": limit}
    return fetch_all(database, build_event, RECENT, parameters)


def delete_events(database: Database, actor: str, target: str) -> int:
    """Delete the events of one actor about one target, for the self-test; return how many there were."""
    return count_changed(database, DELETE, (actor, target))
