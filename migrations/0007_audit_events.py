"""Create the table `audit_events`, which records the actions of operators."""

from typing import Any

UP = (
    """CREATE TABLE audit_events (
        id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
        actor varchar(320) NOT NULL,
        action varchar(50) NOT NULL,
        target varchar(200) NOT NULL,
        outcome varchar(20) NOT NULL DEFAULT 'started',
        detail text,
        created_at timestamp with time zone NOT NULL DEFAULT now(),
        finished_at timestamp with time zone,
        CONSTRAINT audit_events_action
            CHECK (action IN ('clear_cache', 'warm_cache', 'close_session', 'expire_quests')),
        CONSTRAINT audit_events_outcome CHECK (outcome IN ('started', 'done', 'failed'))
    )""",
    "CREATE INDEX audit_events_recent ON audit_events (created_at DESC, id DESC)",
)


def up(_migrator: Any, db: Any) -> None:
    """Create the table and its index."""
    for statement in UP:
        db.execute_sql(statement)


def down(_migrator: Any, db: Any) -> None:
    """Drop the table and its rows."""
    db.execute_sql("DROP TABLE audit_events")
