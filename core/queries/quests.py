"""Statements on `quests`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from core.database import Database
from core.queries.rows import Row, fetch_all, find_one
from core.records import Quest

COLUMNS = (
    "id, user_id, type, title, description, target_value, current_progress, status,"
    " reward_type, reward_value, created_at, expires_at"
)

ACTIVE = f"""
    SELECT {COLUMNS} FROM quests
    WHERE user_id = %s AND status = 'ACTIVE' AND (expires_at IS NULL OR expires_at > %s)
    ORDER BY created_at, id"""
ACTIVE_OF_MANY = f"""
    SELECT {COLUMNS} FROM quests
    WHERE user_id = ANY(%s::uuid[]) AND status = 'ACTIVE' AND (expires_at IS NULL OR expires_at > %s)
    ORDER BY user_id, created_at, id"""
COUNT_COMPLETED = """
    SELECT user_id, count(*) FROM quests
    WHERE user_id = ANY(%s::uuid[]) AND status = 'COMPLETED' AND NOT id = ANY(%s::uuid[])
    GROUP BY user_id"""
LIST = f"""
    SELECT {COLUMNS} FROM quests WHERE %(after)s::uuid IS NULL OR id > %(after)s::uuid
    ORDER BY id LIMIT %(limit)s"""
FIND = f"SELECT {COLUMNS} FROM quests WHERE id = %s"
INSERT = f"""
    INSERT INTO quests (id, user_id, type, title, description, target_value, reward_type, reward_value,
                        expires_at)
    VALUES (%(id)s, %(user_id)s, %(type)s, %(title)s, %(description)s, %(target_value)s, %(reward_type)s,
            %(reward_value)s, %(expires_at)s) RETURNING {COLUMNS}"""
# Only an active quest moves, and it completes in the statement that reaches the target.
PROGRESS = f"""
    UPDATE quests SET current_progress = %(progress)s,
        status = CASE WHEN %(progress)s >= target_value THEN 'COMPLETED' ELSE status END
    WHERE id = %(id)s AND status = 'ACTIVE' AND (expires_at IS NULL OR expires_at > %(now)s)
    RETURNING {COLUMNS}"""
EXPIRE = """
    UPDATE quests SET status = 'EXPIRED' WHERE status = 'ACTIVE' AND expires_at <= %s
    RETURNING user_id"""


def build_quest(row: Row) -> Quest:
    """Build a quest from a row of COLUMNS."""
    return Quest(*row)


def count_completed(
    database: Database, user_ids: Sequence[UUID], excluded: Sequence[UUID]
) -> dict[UUID, int]:
    """Return how many quests these players have completed, without the excluded ones."""
    return dict(database.execute_sql(COUNT_COMPLETED, (list(user_ids), list(excluded))).fetchall())


def list_active(database: Database, user_id: UUID, now: datetime) -> tuple[Quest, ...]:
    """Return the quests a user can still complete, oldest first."""
    return fetch_all(database, build_quest, ACTIVE, (user_id, now))


def list_active_of_many(
    database: Database, user_ids: Sequence[UUID], now: datetime
) -> dict[UUID, tuple[Quest, ...]]:
    """Return the quests that each of the users can still complete, oldest first."""
    found: dict[UUID, list[Quest]] = {user_id: [] for user_id in user_ids}
    for quest in fetch_all(database, build_quest, ACTIVE_OF_MANY, (list(user_ids), now)):
        found[quest.user_id].append(quest)
    return {user_id: tuple(quests) for user_id, quests in found.items()}


def list_after(database: Database, after: UUID | None, limit: int) -> tuple[Quest, ...]:
    """Return the quests that follow one in the order of their ids."""
    return fetch_all(database, build_quest, LIST, {"after": after, "limit": limit})


def find_quest(database: Database, quest_id: UUID) -> Quest | None:
    """Return the quest with this id."""
    return find_one(database, build_quest, FIND, (quest_id,))


def insert_quest(database: Database, values: Mapping[str, Any]) -> Quest:
    """Insert one quest and return it."""
    [quest] = fetch_all(database, build_quest, INSERT, values)
    return quest


def update_progress(database: Database, quest_id: UUID, progress: Decimal, now: datetime) -> Quest | None:
    """Set the progress of an active quest, or return None when there is no such active quest."""
    parameters = {"id": quest_id, "progress": progress, "now": now}
    return find_one(database, build_quest, PROGRESS, parameters)


def expire_quests(database: Database, now: datetime) -> list[UUID]:
    """Expire what is past its time; return the owner of each expired quest."""
    return list(fetch_all(database, lambda row: row[0], EXPIRE, (now,)))
