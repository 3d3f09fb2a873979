"""Statements on `quests`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from core.database import Database
from core.queries.rows import Row, fetch_all, find_one, get_first, list_columns, make_builder
from core.records import PlayerQuest, Quest, QuestTotals

COLUMNS = list_columns(Quest)
IS_RUNNING = "status = 'ACTIVE' AND (expires_at IS NULL OR expires_at > %(now)s)"

ACTIVE = f"""
    SELECT {COLUMNS} FROM quests
    WHERE user_id = %(user_id)s AND {IS_RUNNING}
    ORDER BY created_at, id"""
ACTIVE_OF_MANY = f"""
    SELECT {COLUMNS} FROM quests
    WHERE user_id = ANY(%(user_ids)s::uuid[]) AND {IS_RUNNING}
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
# Changes only a running quest. The update that reaches the target also completes the quest. `greatest` is
# needed because the clock of this process (`now`) may be behind the clock of the server, which set
# `created_at`.
PROGRESS = f"""
    UPDATE quests SET current_progress = %(progress)s,
        status = CASE WHEN %(progress)s >= target_value THEN 'COMPLETED' ELSE status END,
        completed_at = CASE WHEN %(progress)s >= target_value THEN greatest(created_at, %(now)s) END
    WHERE id = %(id)s AND {IS_RUNNING}
    RETURNING {COLUMNS}"""
EXPIRE = """
    UPDATE quests SET status = 'EXPIRED' WHERE status = 'ACTIVE' AND expires_at <= %s
    RETURNING user_id"""


# The counters have the day on which quests end, but not the time. So quests that ended earlier today, and
# quests that end soon, are read from `quests`, one by one. An active quest past its `expires_at` counts as
# expired.
TOTALS = """
    SELECT type, reward_type, sum(given)::bigint, sum(started)::bigint, sum(halfway)::bigint,
           sum(completed)::bigint, sum(active)::bigint, sum(expiring)::bigint, sum(earned), sum(open)
    FROM (
        SELECT type, reward_type, quests, started, halfway,
               CASE WHEN status = 'COMPLETED' THEN quests ELSE 0 END,
               CASE WHEN is_active THEN quests ELSE 0 END, 0,
               CASE WHEN status = 'COMPLETED' THEN rewards ELSE 0 END,
               CASE WHEN is_active THEN rewards ELSE 0 END
        FROM (SELECT *, status = 'ACTIVE' AND (ended_on IS NULL OR ended_on >= %(today)s) AS is_active
              FROM quest_counters) AS counters
        UNION ALL
        SELECT type, reward_type, 0, 0, 0, 0, -1, 0, 0, COALESCE(-reward_value, 0) FROM quests
        WHERE status = 'ACTIVE' AND expires_at > %(midnight)s AND expires_at <= %(now)s
        UNION ALL
        SELECT type, reward_type, 0, 0, 0, 0, 0, 1, 0, 0 FROM quests
        WHERE status = 'ACTIVE' AND expires_at > %(now)s AND expires_at <= %(soon)s
    ) AS parts (type, reward_type, given, started, halfway, completed, active, expiring, earned, open)
    GROUP BY type, reward_type HAVING sum(given) <> 0
    ORDER BY type COLLATE "C", reward_type COLLATE "C" """
# Many quests end at the same midnight. Of these, the quests nearest to their target come first.
EXPIRING = f"""
    SELECT u.username, {list_columns(Quest, prefix="q.")} FROM (
        SELECT {COLUMNS} FROM quests
        WHERE status = 'ACTIVE' AND expires_at > %(now)s AND expires_at <= %(until)s
          AND (%(type)s::text IS NULL OR type = %(type)s)
        ORDER BY expires_at, current_progress / target_value DESC, id LIMIT %(limit)s
    ) AS q JOIN users u ON u.id = q.user_id
    ORDER BY q.expires_at, q.current_progress / q.target_value DESC, q.id"""
OF_USER = f"""
    SELECT {COLUMNS} FROM quests
    WHERE user_id = %(user_id)s
      AND (%(after_id)s::uuid IS NULL OR (created_at, id) < (%(after)s::timestamptz, %(after_id)s::uuid))
    ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""

build_quest = make_builder(Quest)
build_totals = make_builder(QuestTotals)


def build_player_quest(row: Row) -> PlayerQuest:
    """Build a quest with its player's username, from a row with the username and the columns of the quest."""
    return PlayerQuest(row[0], build_quest(row[1:]))


def count_completed(
    database: Database, user_ids: Sequence[UUID], excluded: Sequence[UUID]
) -> dict[UUID, int]:
    """Return how many quests each player has completed. The quests in `excluded` are not counted.

    The dict has no item for a player whose count is 0.
    """
    return dict(database.execute_sql(COUNT_COMPLETED, (list(user_ids), list(excluded))).fetchall())


def list_active(database: Database, user_id: UUID, now: datetime) -> tuple[Quest, ...]:
    """Return the running quests of a user, oldest first."""
    return fetch_all(database, build_quest, ACTIVE, {"user_id": user_id, "now": now})


def list_active_of_many(
    database: Database, user_ids: Sequence[UUID], now: datetime
) -> dict[UUID, tuple[Quest, ...]]:
    """Return the running quests of each user, oldest first."""
    found: dict[UUID, list[Quest]] = {user_id: [] for user_id in user_ids}
    parameters = {"user_ids": list(user_ids), "now": now}
    for quest in fetch_all(database, build_quest, ACTIVE_OF_MANY, parameters):
        found[quest.user_id].append(quest)
    return {user_id: tuple(quests) for user_id, quests in found.items()}


def list_after(database: Database, after: UUID | None, limit: int) -> tuple[Quest, ...]:
    """Return up to `limit` quests, ordered by id, after the id `after` (None: from the start)."""
    return fetch_all(database, build_quest, LIST, {"after": after, "limit": limit})


def sum_quests(database: Database, now: datetime, soon: datetime) -> tuple[QuestTotals, ...]:
    """Return the totals of all quests, for each pair of quest type and reward type.

    Active quests that end by `soon` count as expiring.
    """
    midnight = datetime.combine(now.astimezone(UTC), time(), UTC)
    parameters = {"now": now, "soon": soon, "midnight": midnight, "today": midnight.date()}
    return fetch_all(database, build_totals, TOTALS, parameters)


def list_expiring(
    database: Database, limit: int, now: datetime, until: datetime, *, quest_type: str | None
) -> tuple[PlayerQuest, ...]:
    """Return up to `limit` running quests that end by the time `until`, soonest first."""
    parameters = {"limit": limit, "now": now, "until": until, "type": quest_type}
    return fetch_all(database, build_player_quest, EXPIRING, parameters)


def list_of_user(
    database: Database, user_id: UUID, limit: int, *, after: tuple[datetime, UUID] | None
) -> tuple[Quest, ...]:
    """Return up to `limit` of a user's quests, newest first.

    `after` is the time and id of the last quest of the previous page.
    """
    created_at, quest_id = after or (None, None)
    parameters = {"user_id": user_id, "after": created_at, "after_id": quest_id, "limit": limit}
    return fetch_all(database, build_quest, OF_USER, parameters)


def find_quest(database: Database, quest_id: UUID) -> Quest | None:
    """Return the quest with this id, or None."""
    return find_one(database, build_quest, FIND, (quest_id,))


def insert_quest(database: Database, values: Mapping[str, Any]) -> Quest:
    """Insert a quest, given as values by column name, and return it."""
    [quest] = fetch_all(database, build_quest, INSERT, values)
    return quest


def update_progress(database: Database, quest_id: UUID, progress: Decimal, now: datetime) -> Quest | None:
    """Set the progress of a running quest and return the quest, or None if no running quest has this id."""
    parameters = {"id": quest_id, "progress": progress, "now": now}
    return find_one(database, build_quest, PROGRESS, parameters)


def expire_quests(database: Database, now: datetime) -> list[UUID]:
    """Set active quests past their `expires_at` to EXPIRED, and return the player of each of these quests."""
    return list(fetch_all(database, get_first, EXPIRE, (now,)))
