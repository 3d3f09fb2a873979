"""What quests ask and what they are worth.

Owns targets, texts and rewards; whoever plays keeps the progress.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from core.records import Quest
from core.simulation.identifiers import Hashes, mix

WINS = "WINNING_SESSIONS"
GAIN = "BIG_GAIN"
BEAT = "BEAT_THE_MARKET"
MILESTONE = "MILESTONE"
GAIN_TODAY = "DAILY_GAIN"
LEAD_TODAY = "DAILY_LEAD"


class QuestRule(NamedTuple):
    """A quest that can be given to a player; the reward is in coins."""

    type: str
    title: str
    description: str
    target: Decimal
    reward: Decimal


REWARD_TYPE: Final = "COINS"

WEEKLY: Final = (
    QuestRule(
        WINS,
        "Win 3 sessions this week",
        "Finish three sessions of the week with a gain.",
        Decimal(3),
        Decimal(50),
    ),
    QuestRule(
        GAIN,
        "Gain 200 in one session",
        "Finish a session of the week at least 200.00 above the starting cash.",
        Decimal(200),
        Decimal(75),
    ),
    QuestRule(
        BEAT,
        "Beat the market 3 times this week",
        "Finish three sessions of the week above the average player.",
        Decimal(3),
        Decimal(60),
    ),
)
"""Quests of a week of replayed sessions, in the order in which a player gets them."""

DAILY: Final = (
    QuestRule(
        GAIN_TODAY,
        "Gain 100 today",
        "Be 100.00 above the starting cash at any time today.",
        Decimal(100),
        Decimal(20),
    ),
    QuestRule(
        LEAD_TODAY,
        "Beat the market by 50 today",
        "Be 50.00 ahead of the average player at any time today.",
        Decimal(50),
        Decimal(25),
    ),
)
"""Quests of a day of the live market, in the order in which a player gets them."""

GIVEN_PERCENT: Final = 70
"""Of the players who play get a quest; the others allow a comparison with those who have one."""

DAILY_TYPES: Final = frozenset(rule.type for rule in DAILY)

MILESTONES: Final = (10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)
"""Won sessions; a player works on one at a time, so that one quest is always active."""


def milestone(wins: int) -> QuestRule:
    """Return the quest for so many won sessions in all."""
    return QuestRule(
        MILESTONE,
        f"Win {wins:,} sessions",
        f"Finish {wins:,} sessions with a gain, counted over all of them.",
        Decimal(wins),
        Decimal(10 * wins),
    )


def next_milestone(wins: int) -> QuestRule | None:
    """Return the milestone that a player with so many won sessions works on."""
    return next((milestone(rung) for rung in MILESTONES if rung > wins), None)


def week_of(day: date) -> int:
    """Return the number of the calendar week of a day, which begins on a Monday."""
    return (day.toordinal() - 1) // 7


def take_turns(keys: Hashes, period: int) -> NDArray[np.bool_]:
    """Say for each player whether there is a quest for them in a day or week, by its number."""
    draws = mix(keys ^ mix(np.array([period], np.uint64))) % np.uint64(100)
    has_turn: NDArray[np.bool_] = draws < GIVEN_PERCENT
    return has_turn


def build_quest(
    quest_id: UUID,
    user_id: UUID,
    rule: QuestRule,
    *,
    progress: Decimal,
    status: str,
    created_at: datetime,
    expires_at: datetime | None,
) -> Quest:
    """Return a player's quest by a rule."""
    return Quest(
        id=quest_id,
        user_id=user_id,
        type=rule.type,
        title=rule.title,
        description=rule.description,
        target_value=rule.target,
        current_progress=progress,
        status=status,
        reward_type=REWARD_TYPE,
        reward_value=rule.reward,
        created_at=created_at,
        expires_at=expires_at,
    )
