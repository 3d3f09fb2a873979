"""The leaderboard categories as pages show them: names, units and what their scores mean.

A category exists once a score is stored in it. One that is not listed here gets a name made from its key.
"""

import msgspec

from core.records import DAILY_RETURNS, QUESTS_COMPLETED, TOTAL_VALUE
from dashboard.formats import Unit, escape_markdown, format_key


class Category(msgspec.Struct, frozen=True):
    """The name of a leaderboard category, the unit of its scores and, in Markdown, their meaning."""

    key: str
    name: str
    unit: Unit
    explanation: str


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
    ),
    Category(
        key=QUESTS_COMPLETED,
        name="Quests completed",
        unit="count",
        explanation="Quests completed: all by the end of the session or, while it is open, so far.",
    ),
)

_KNOWN_BY_KEY = {category.key: category for category in KNOWN_CATEGORIES}


def describe_category(key: str) -> Category:
    """Return the listed category of this key, or one with a name made from the key."""
    return _KNOWN_BY_KEY.get(key) or Category(
        key, format_key(key), "number", f"Scores of “{escape_markdown(key)}”."
    )
