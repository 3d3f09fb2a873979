"""How the dashboard writes figures, names and times."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from dashboard import formats

NOW = datetime(2013, 3, 1, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    ("score", "unit", "text"),
    [
        (Decimal("1.2345"), "percent", "+1.23%"),
        (Decimal(-3), "percent", "-3.00%"),
        (Decimal(0), "percent", "0.00%"),
        (Decimal("-0.004"), "percent", "0.00%"),
        (Decimal("-0.004"), "currency", "$0.00"),
        (Decimal("10310.75"), "currency", "$10,310.75"),
        (Decimal("-12.5"), "currency", "-$12.50"),
        (Decimal(1234), "count", "1,234"),
        (Decimal("1234.5"), "number", "1,234.50"),
    ],
)
def test_a_score_is_written_in_its_unit(score: Decimal, unit: formats.Unit, text: str) -> None:
    """Percent with its sign, money with a currency, counts whole, all with separators."""
    assert formats.format_score(score, unit) == text


@pytest.mark.parametrize(("amount", "text"), [("12.5", "+$12.50"), ("-1234.5", "-$1,234.50"), ("0", "$0.00")])
def test_a_change_of_money_has_a_sign(amount: str, text: str) -> None:
    """The sign is a plain minus in front, which is how a metric knows a loss."""
    assert formats.format_signed_money(Decimal(amount)) == text


def test_ranks_and_days_are_readable() -> None:
    """Ranks have separators, days their weekday."""
    assert formats.format_rank(1024) == "#1,024"
    assert formats.format_day(date(2013, 3, 1)) == "Fri 1 Mar 2013"


def test_a_short_day_has_its_year_where_it_is_another() -> None:
    """A session of the replay is not taken for one of this year."""
    day = date(2013, 3, 1)
    assert formats.format_short_day(day, beside=date(2013, 2, 28)) == "1 Mar"
    assert formats.format_short_day(day, beside=date(2026, 11, 25)) == "1 Mar 2013"


def test_the_time_of_reading_is_utc() -> None:
    """A time of another zone is written in UTC, which is named."""
    moment = datetime.fromisoformat("2013-03-01T23:30:05+02:00")
    assert formats.format_as_of(moment) == "As of 2013-03-01 21:30:05 UTC"


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (timedelta(days=3, hours=4), "3 d 4 h left"),
        (timedelta(hours=7, minutes=5), "7 h 5 min left"),
        (timedelta(minutes=12), "12 min left"),
        (timedelta(hours=-30), "ended Thu 28 Feb 2013"),
    ],
)
def test_time_left_has_two_units(left: timedelta, text: str) -> None:
    """What is over says when it ended."""
    assert formats.format_time_left(NOW + left, NOW) == text


def test_what_never_ends_has_no_time_left() -> None:
    """No end, no text."""
    assert formats.format_time_left(None, NOW) == ""


def test_an_unknown_category_gets_a_readable_name() -> None:
    """A category that only the database knows is shown under its own key."""
    category = formats.describe_category("risk_taken")
    assert (category.name, category.unit) == ("Risk taken", "number")


@pytest.mark.parametrize("category", formats.KNOWN_CATEGORIES, ids=lambda item: item.key)
def test_a_known_category_describes_itself(category: formats.Category) -> None:
    """The three known categories have a name and an explanation."""
    assert formats.describe_category(category.key) is category
    assert category.name
    assert category.explanation.endswith(".")


def test_player_made_text_is_shown_literally() -> None:
    """A name cannot smuggle in markup, links, colours or formulas."""
    escaped = formats.escape_markdown("[x](http://evil) :red[a] <b> $1$ *b*")
    assert escaped == (r"\[x\]\(http\://evil\) \:red\[a\] \<b\> \$1\$ \*b\*")
