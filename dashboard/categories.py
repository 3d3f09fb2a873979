"""The leaderboard categories as pages show them: names, units and what their scores mean.

A category exists once a score is stored in it. One that is not listed here gets a name made from its key.
"""

from decimal import Decimal

import msgspec

from core.records import DAILY_RETURNS, QUESTS_COMPLETED, STARTING_CASH, TOTAL_VALUE
from dashboard.formats import Unit, escape_markdown, format_key, format_score


class Category(msgspec.Struct, frozen=True):
    """The name of a leaderboard category, the unit of its scores and, in Markdown, their meaning.

    A running total goes on from session to session, so its mean over several sessions means nothing.
    `missed` is what a session without a score counts as in such a mean.
    """

    key: str
    name: str
    unit: Unit
    explanation: str
    is_running_total: bool = False
    missed: Decimal = Decimal(0)


KNOWN_CATEGORIES = (
    Category(
        key=DAILY_RETURNS,
        name="Daily return",
        unit="percent",
        explanation="Daily return: gain or loss on the starting cash of 10,000.",
    ),
    Category(
        key=TOTAL_VALUE,
        name="Total value",
        unit="currency",
        explanation="Total value: cash and holdings, at the close of the session or, while it is open, now.",
        missed=STARTING_CASH,  # a player who does not play keeps it
    ),
    Category(
        key=QUESTS_COMPLETED,
        name="Quests completed",
        unit="count",
        explanation="Quests completed: all by the end of the session or, while it is open, so far.",
        is_running_total=True,
    ),
)

_KNOWN_BY_KEY = {category.key: category for category in KNOWN_CATEGORIES}


def describe_missed(category: Category) -> str:
    """Return what a session without a score counts as in the mean of several sessions."""
    return f"the starting cash of {format_score(category.missed, category.unit)}" if category.missed else "0"


def describe_category(key: str) -> Category:
    """Return the listed category of this key, or one with a name made from the key."""
    return _KNOWN_BY_KEY.get(key) or Category(
        key, format_key(key), "number", f"Scores of “{escape_markdown(key)}”."
    )
