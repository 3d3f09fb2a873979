"""The leaderboard categories as pages show them: their names, and the units and meanings of their scores.

A category exists as soon as a score is stored for it. If it is not listed here, its name is made from its
key.
"""

from decimal import Decimal

import msgspec

from core.records import DAILY_RETURNS, QUESTS_COMPLETED, STARTING_CASH, TOTAL_VALUE
from dashboard.formats import Unit, escape_markdown, format_key, format_score


class Category(msgspec.Struct, frozen=True):
    """A leaderboard category: its name, the unit of its scores, and an explanation in Markdown.

    If `is_running_total` is true, scores add up from session to session, so a mean over sessions has no
    meaning. For other categories, a mean over sessions uses the score `missed` for a session without a score.
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
        missed=STARTING_CASH,  # a player who misses a session keeps the starting cash
    ),
    Category(
        key=QUESTS_COMPLETED,
        name="Quests completed",
        unit="count",
        explanation="Quests completed: the number by the end of the session or, while it is open, so far.",
        is_running_total=True,
    ),
)

_KNOWN_BY_KEY = {category.key: category for category in KNOWN_CATEGORIES}


def describe_missed(category: Category) -> str:
    """Return the score that counts for a missed session, such as `the starting cash of $10,000.00`."""
    return f"the starting cash of {format_score(category.missed, category.unit)}" if category.missed else "0"


def describe_category(key: str) -> Category:
    """Return the known category with this key, or a new category whose name is made from the key."""
    return _KNOWN_BY_KEY.get(key) or Category(
        key, format_key(key), "number", f"Scores of “{escape_markdown(key)}”."
    )
