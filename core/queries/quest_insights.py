"""Statements that sum up the quests of all players."""

from datetime import datetime
from uuid import UUID

from core.database import Database
from core.queries.quests import COLUMNS as QUEST_COLUMNS
from core.queries.quests import build_quest
from core.queries.rows import Row, fetch_all
from core.records import PlayerQuest, Quest, QuestPace, QuestTotals

_QUALIFIED = ", ".join(f"q.{column.strip()}" for column in QUEST_COLUMNS.split(","))
_IS_RUNNING = "status = 'ACTIVE' AND (expires_at IS NULL OR expires_at > %(now)s)"

# Reads every quest once; what is past its time counts as expired before it is marked so.
TOTALS = f"""
    SELECT type, reward_type, count(*),
           count(*) FILTER (WHERE current_progress > 0 OR status = 'COMPLETED'),
           count(*) FILTER (WHERE current_progress * 2 >= target_value OR status = 'COMPLETED'),
           count(*) FILTER (WHERE status = 'COMPLETED'),
           count(*) FILTER (WHERE {_IS_RUNNING}),
           count(*) FILTER (WHERE {_IS_RUNNING} AND expires_at <= %(soon)s),
           COALESCE(sum(reward_value) FILTER (WHERE status = 'COMPLETED'), 0),
           COALESCE(sum(reward_value) FILTER (WHERE {_IS_RUNNING}), 0)
    FROM quests GROUP BY type, reward_type ORDER BY type COLLATE "C", reward_type COLLATE "C" """
# Many end at the same time, midnight: of those the nearest to their target come first.
EXPIRING = f"""
    SELECT u.username, {_QUALIFIED} FROM (
        SELECT {QUEST_COLUMNS} FROM quests
        WHERE status = 'ACTIVE' AND expires_at > %(now)s AND expires_at <= %(until)s
        ORDER BY expires_at, current_progress / target_value DESC, id LIMIT %(limit)s
    ) AS q JOIN users u ON u.id = q.user_id
    ORDER BY q.expires_at, q.current_progress / q.target_value DESC, q.id"""
# How far players came for each day that the quest has been open.
SLOWEST = f"""
    SELECT type, title, count(*),
           round(avg(least(current_progress / target_value, 1)) * 100, 2),
           round(avg(extract(epoch FROM %(now)s - created_at)) / 86400, 2)
    FROM quests WHERE {_IS_RUNNING} AND created_at < %(now)s
    GROUP BY type, title
    ORDER BY sum(least(current_progress / target_value, 1))
             / sum(extract(epoch FROM %(now)s - created_at)), count(*) DESC,
             type COLLATE "C", title COLLATE "C"
    LIMIT %(limit)s"""
OF_USER = f"""
    SELECT {QUEST_COLUMNS} FROM quests
    WHERE user_id = %(user_id)s
      AND (%(after_id)s::uuid IS NULL OR (created_at, id) < (%(after)s::timestamptz, %(after_id)s::uuid))
    ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""


def build_totals(row: Row) -> QuestTotals:
    """Build totals from a row of TOTALS."""
    return QuestTotals(*row)


def build_pace(row: Row) -> QuestPace:
    """Build a pace from a row of SLOWEST."""
    return QuestPace(*row)


def build_player_quest(row: Row) -> PlayerQuest:
    """Build a quest with its player's name."""
    return PlayerQuest(row[0], build_quest(row[1:]))


def sum_quests(database: Database, now: datetime, soon: datetime) -> tuple[QuestTotals, ...]:
    """Return the totals of every pair of type and reward."""
    return fetch_all(database, build_totals, TOTALS, {"now": now, "soon": soon})


def list_expiring(database: Database, limit: int, now: datetime, until: datetime) -> tuple[PlayerQuest, ...]:
    """Return running quests that end by a time, soonest first."""
    return fetch_all(database, build_player_quest, EXPIRING, {"limit": limit, "now": now, "until": until})


def list_slowest(database: Database, limit: int, now: datetime) -> tuple[QuestPace, ...]:
    """Return the running quests by title, slowest first."""
    return fetch_all(database, build_pace, SLOWEST, {"limit": limit, "now": now})


def list_of_user(
    database: Database, user_id: UUID, limit: int, *, after: tuple[datetime, UUID] | None = None
) -> tuple[Quest, ...]:
    """Return a user's quests of every status, newest first, from behind a place in that order on."""
    created_at, quest_id = after or (None, None)
    parameters = {"user_id": user_id, "after": created_at, "after_id": quest_id, "limit": limit}
    return fetch_all(database, build_quest, OF_USER, parameters)
