"""Formats of numbers, names and times in the dashboard."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from urllib.parse import parse_qs, urlsplit

import pytest

from dashboard import categories, formats

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
    """A percent has a sign, money has a currency, a count has no decimals; thousands are separated."""
    assert formats.format_score(score, unit) == text


@pytest.mark.parametrize(("amount", "text"), [("12.5", "+$12.50"), ("-1234.5", "-$1,234.50"), ("0", "$0.00")])
def test_a_change_of_money_has_a_sign(amount: str, text: str) -> None:
    """A loss has its minus before the dollar sign: a metric card detects a loss by a leading minus."""
    assert formats.format_signed_money(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 0, "-"),
        (0, 2_011, "0%"),
        (1, 2_011, "<1%"),
        (11, 2_011, "1%"),
        (1_000, 2_000, "50%"),
        (2_002, 2_011, ">99%"),
        (2_011, 2_011, "100%"),
        (Decimal("0.01"), Decimal(10_000), "<1%"),
        (Decimal("9999.99"), Decimal(10_000), ">99%"),
        (Decimal("-12.5"), Decimal(100), "-12%"),
        (Decimal("-0.01"), Decimal(100), "0%"),
    ],
)
def test_a_share_close_to_all_or_none_is_not_rounded_to_it(part: Decimal, whole: Decimal, text: str) -> None:
    """A share close to 100% or 0% is shown as >99% or <1%."""
    assert formats.format_share(part, whole) == text


def test_a_share_with_a_decimal_is_not_rounded_to_all_or_none() -> None:
    """With one decimal, a share close to 100% or 0% is shown as >99.9% or <0.1%."""
    assert formats.format_share(2_002, 2_011, places=1) == "99.6%"
    assert formats.format_share(99_999, 100_000, places=1) == ">99.9%"
    assert formats.format_share(1, 100_000, places=1) == "<0.1%"
    assert formats.format_share(5, 5, places=1) == "100%"
    shares = [
        formats.measure_share(part, 1_000_000) for part in (0, 1, 500_000, 999_999, 1_000_000, 1_000_001)
    ]
    assert shares == [0, 1, 50, 99, 100, 100]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1_250, "+1,250"), (-3, "-3"), (Decimal("-0.4"), "0"), (0.0, "0")]
)
def test_a_change_has_a_sign_unless_it_is_zero(value: Decimal, text: str) -> None:
    """A change has a sign, except a change that is zero or rounds to zero."""
    assert formats.format_change(value) == text


def test_ranks_and_days_are_formatted() -> None:
    """Ranks have thousands separators, and days have their weekday."""
    assert formats.format_rank_of(1024, 2048) == "1,024 of 2,048"
    assert formats.format_day(date(2013, 3, 1)) == "Fri 1 Mar 2013"


def test_the_as_of_time_is_in_utc() -> None:
    """A time in another time zone is converted to UTC and labelled UTC."""
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
    """The time left has at most two units; a time in the past is shown as the day on which it ended."""
    assert formats.format_time_left(NOW + left, NOW) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (14.4, "14 s"),
        (59.6, "1 min"),
        (185, "3 min 5 s"),
        (9_600, "2 h 40 min"),
        (3_600, "1 h"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_duration_has_two_units(seconds: float, text: str) -> None:
    """A duration is shown in its two largest units; a second unit of zero is left out."""
    assert formats.format_duration(seconds) == text


def test_without_an_end_there_is_no_time_left() -> None:
    """For a quest without an end, the text of the time left is empty."""
    assert formats.format_time_left(None, NOW) == ""


def test_an_unknown_category_gets_a_readable_name() -> None:
    """A category without a description is named by its key in words and has the unit `number`."""
    category = categories.describe_category("risk_taken")
    assert (category.name, category.unit) == ("Risk taken", "number")


@pytest.mark.parametrize("category", categories.KNOWN_CATEGORIES, ids=lambda item: item.key)
def test_a_known_category_has_a_description(category: categories.Category) -> None:
    """A known category has a name and an explanation that ends with a full stop."""
    assert categories.describe_category(category.key) is category
    assert category.name
    assert category.explanation.endswith(".")


def test_markdown_in_a_name_is_escaped() -> None:
    """Links, colours, HTML, formulas and emphasis in a name are escaped, so they are shown unchanged."""
    escaped = formats.escape_markdown("[x](http://evil) :red[a] <b> $1$ *b*")
    assert escaped.replace("\u2060", "") == r"\[x\]\(http\://evil\) \:red\[a\] \<b\> \$1\$ \*b\*"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("www.evil.com", "www."),
        ("https://evil.com", "://"),
        ("alice@evil.com", "@evil"),
        (":material_home:", ":material"),
        (":+1:", ":+1"),
        (":100:", ":100"),
    ],
)
def test_a_name_becomes_no_link_or_icon(name: str, found: str) -> None:
    """Markdown finds links and icons despite backslashes, so a word joiner (U+2060) breaks them up."""
    shown = formats.escape_markdown(name).replace("\\", "")
    assert found not in shown
    assert shown.replace("\u2060", "") == name


def test_a_name_is_one_line_that_keeps_its_direction() -> None:
    """Spaces around a name are removed, line ends become spaces, and right-to-left text is isolated."""
    assert formats.escape_markdown(" a\n# b ") == r"a \# b"
    assert formats.escape_markdown("&lt;") == r"\&lt;"
    assert formats.escape_markdown("\u05e9\u05dc") == "\u2068\u05e9\u05dc\u2069"


@pytest.mark.parametrize("control", "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
def test_direction_controls_are_removed_from_a_name(control: str) -> None:
    """A control character that changes the direction of the text after it is removed from a name."""
    assert formats.escape_markdown(f"a{control}b") == "ab"


@pytest.mark.parametrize(("change", "expected"), [("0", True), ("-0.004", True), ("0.01", False)])
def test_a_change_shown_as_zero_counts_as_zero(change: str, *, expected: bool) -> None:
    """A change that is shown as 0.00 counts as zero, so it gets no arrow."""
    assert formats.is_zero(Decimal(change)) is expected


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (1234.5, "$1,234.50"),
        (Decimal("0.1"), "$0.10"),
        (Decimal("0.0999"), "$0.09990"),
        (Decimal("0.00016"), "$0.0001600"),
        (0.0000012345, "$0.000001234"),
    ],
)
def test_small_prices_keep_their_digits(price: Decimal | float, text: str) -> None:
    """A price below $0.10 has four significant digits, because two decimals would show 0.00."""
    assert formats.format_price(price) == text


@pytest.mark.parametrize("name", ["alice", "a/b c", "50% & more?", "žofia", "x#y+z"])
def test_a_player_link_names_the_player(name: str) -> None:
    """A player link keeps every character of the username."""
    address = formats.build_player_link(name)
    parts = urlsplit(address)
    assert parts.path == "portfolios"
    assert parse_qs(parts.query) == {"player": [name]}


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 sessions"), (1, "1 session"), (2, "2 sessions"), (1200, "1,200 sessions")]
)
def test_a_quantity_has_a_singular_or_plural_noun(count: int, text: str) -> None:
    """A count of 1 has its noun in the singular; every other count has the plural."""
    assert formats.format_quantity(count, "session") == text


@pytest.mark.parametrize(
    ("part", "places", "text"),
    [
        (0, 0, "0%"),
        (1, 0, "<1%"),
        (6, 0, "1%"),
        (505, 0, "50%"),
        (999, 0, ">99%"),
        (999, 1, "99.9%"),
        (1000, 1, "100%"),
    ],
)
def test_a_share_of_a_thousand_is_not_rounded_to_all_or_none(part: int, places: int, text: str) -> None:
    """999 of 1,000 are not shown as 100%, and 1 of 1,000 is not shown as 0%."""
    assert formats.format_share(part, 1000, places=places) == text
