"""How the dashboard writes figures, names and times."""

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
    """Percent with its sign, money with a currency, counts whole, all with separators."""
    assert formats.format_score(score, unit) == text


@pytest.mark.parametrize(("amount", "text"), [("12.5", "+$12.50"), ("-1234.5", "-$1,234.50"), ("0", "$0.00")])
def test_a_change_of_money_has_a_sign(amount: str, text: str) -> None:
    """The sign is a minus in front, by which a metric card recognises a loss."""
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
def test_a_share_is_all_or_none_only_when_it_is(part: Decimal, whole: Decimal, text: str) -> None:
    """A share close to all or to none is not shown as 100% or 0%."""
    assert formats.format_share(part, whole) == text


def test_a_share_with_a_decimal_is_as_strict() -> None:
    """2,002 of 2,011 are 99.6 %; less than all is never 100.0 %."""
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
    """A change that rounds to zero has no sign either."""
    assert formats.format_change(value) == text


def test_ranks_and_days_are_readable() -> None:
    """Ranks have separators, days their weekday."""
    assert formats.format_rank_of(1024, 2048) == "1,024 of 2,048"
    assert formats.format_day(date(2013, 3, 1)) == "Fri 1 Mar 2013"


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
    """A time that is over is shown as the day on which it ended."""
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
    """The two largest units are shown; a remainder of zero is left out."""
    assert formats.format_duration(seconds) == text


def test_what_never_ends_has_no_time_left() -> None:
    """Without an end the text is empty."""
    assert formats.format_time_left(None, NOW) == ""


def test_an_unknown_category_gets_a_readable_name() -> None:
    """A category that only the database knows is shown under its own key."""
    category = categories.describe_category("risk_taken")
    assert (category.name, category.unit) == ("Risk taken", "number")


@pytest.mark.parametrize("category", categories.KNOWN_CATEGORIES, ids=lambda item: item.key)
def test_a_known_category_describes_itself(category: categories.Category) -> None:
    """The three known categories have a name and an explanation."""
    assert categories.describe_category(category.key) is category
    assert category.name
    assert category.explanation.endswith(".")


def test_player_made_text_is_shown_literally() -> None:
    """A name cannot smuggle in markup, links, colours or formulas."""
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
def test_a_name_becomes_no_link_and_no_icon(name: str, found: str) -> None:
    """Markdown finds both behind the escapes, so an invisible character breaks them up."""
    shown = formats.escape_markdown(name).replace("\\", "")
    assert found not in shown
    assert shown.replace("\u2060", "") == name


def test_a_name_is_one_line_that_keeps_its_direction() -> None:
    """Outer spaces would break bold text, and right-to-left text would move what follows it."""
    assert formats.escape_markdown(" a\n# b ") == r"a \# b"
    assert formats.escape_markdown("&lt;") == r"\&lt;"
    assert formats.escape_markdown("\u05e9\u05dc") == "\u2068\u05e9\u05dc\u2069"


@pytest.mark.parametrize("control", "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
def test_a_name_does_not_turn_what_follows(control: str) -> None:
    """Characters that change the direction of the text after them are left out."""
    assert formats.escape_markdown(f"a{control}b") == "ab"


@pytest.mark.parametrize(("change", "expected"), [("0", True), ("-0.004", True), ("0.01", False)])
def test_nothing_is_neither_gain_nor_loss(change: str, *, expected: bool) -> None:
    """A change that is written as 0.00 gets no arrow."""
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
    """With two decimals such a price would be 0.00."""
    assert formats.format_price(price) == text


@pytest.mark.parametrize("name", ["alice", "a/b c", "50% & more?", "žofia", "x#y+z"])
def test_a_player_link_names_the_player(name: str) -> None:
    """The link survives every character that a username can have."""
    address = formats.build_player_link(name)
    parts = urlsplit(address)
    assert parts.path == "portfolios"
    assert parse_qs(parts.query) == {"player": [name]}


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 sessions"), (1, "1 session"), (2, "2 sessions"), (1200, "1,200 sessions")]
)
def test_a_quantity_has_the_number_of_its_noun(count: int, text: str) -> None:
    """One session, and any other number of sessions."""
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
def test_a_share_is_all_or_nothing_only_when_it_is(part: int, places: int, text: str) -> None:
    """Rounding shows neither 100% for most nor 0% for a few."""
    assert formats.format_share(part, 1000, places=places) == text
