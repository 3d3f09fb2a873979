"""What quests ask and what they are worth.

Owns targets, texts and rewards; whoever plays keeps the progress.
"""

from decimal import Decimal
from typing import Final, NamedTuple

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
