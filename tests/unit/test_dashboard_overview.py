"""Headline figures and charts of the last sessions."""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import altair as alt
import pytest

from core.records import SessionSummary
from dashboard.pages.overview import tables

DAY = date(2013, 3, 1)


def build_session(age: int = 0, **changes: Any) -> SessionSummary:
    """Return a session; each is a bit better than the one before it."""
    values: dict[str, Any] = {
        "session_date": DAY - timedelta(days=age),
        "signed_up": 1_200 - age,
        "players": 1_000 - age,
        "best_return": Decimal(5) - age,
        "median_return": Decimal("0.25") - age,
        "quests_completed": 100 - 10 * age,
        "events": 3 - age,
    }
    return SessionSummary(**(values | changes))


def test_headlines_show_the_newest_session_and_its_change() -> None:
    """Six figures, each against the session before."""
    headlines = tables.build_headlines([build_session(0), build_session(1)], active=900, is_today=True)
    assert [(item.label, item.value, item.note) for item in headlines] == [
        ("Players", "1,200", "+1"),
        ("Active today", "1,000", "900 seen today"),
        ("Median return", "+0.25%", "+1.00 pts"),
        ("Best return", "+5.00%", "+1.00 pts"),
        ("Events of the day", "3", "+1"),
        ("Quests completed", "10", "100 in total"),
    ]


def test_trends_go_from_the_oldest_to_the_newest() -> None:
    """One value a session; finished quests are the steps between."""
    players, active, median, _, events, quests = tables.build_headlines(
        [build_session(age) for age in range(3)], active=0, is_today=True
    )
    assert players.trend == (1_198.0, 1_199.0, 1_200.0)
    assert active.trend == (998.0, 999.0, 1_000.0)
    assert median.trend == (-1.75, -0.75, 0.25)
    assert events.trend == (1.0, 2.0, 3.0)
    assert quests.trend == (10.0, 10.0)


def test_only_returns_are_good_or_bad() -> None:
    """More players or events are neither gain nor loss."""
    headlines = tables.build_headlines([build_session()], active=0, is_today=True)
    assert [item.label for item in headlines if item.is_change] == ["Median return", "Best return"]


def test_a_session_that_is_over_names_its_day() -> None:
    """Nobody reads a figure of years ago as today's."""
    active = tables.build_headlines([build_session()], active=7, is_today=False)[1]
    assert (active.label, active.value) == ("Active on 1 Mar", "1,000")
    assert active.note == "7 seen since"


def test_an_unchanged_return_is_no_gain() -> None:
    """No green arrow at 0.00."""
    median = tables.build_headlines([build_session(), build_session()], active=0, is_today=True)[2]
    assert (median.note, median.is_change) == ("0.00 pts", False)


def test_a_first_session_has_no_change() -> None:
    """Nor a trend of quests."""
    headlines = tables.build_headlines([build_session()], active=0, is_today=True)
    assert [item.note for item in headlines] == [
        None,
        "0 seen today",
        None,
        None,
        None,
        "100 in total",
    ]
    assert (headlines[5].value, headlines[5].trend) == ("-", ())


def test_a_session_without_boards_has_dashes() -> None:
    """What is not known is not 0."""
    bare = build_session(best_return=None, median_return=None, quests_completed=None)
    headlines = tables.build_headlines([bare, build_session(1)], active=0, is_today=True)
    assert [item.value for item in headlines[2:4]] == ["-", "-"]
    assert headlines[2].trend == (-0.75,)
    assert headlines[5].note is None


@pytest.mark.parametrize(
    ("totals", "finished"), [([30, 20, 5], [15, 10]), ([30, None, 5], [25]), ([10, 20], [0]), ([None], [])]
)
def test_finished_quests_are_the_steps_between_totals(totals: list[int | None], finished: list[int]) -> None:
    """A missing total counts with the next; nothing is ever unfinished."""
    sessions = [build_session(age, quests_completed=total) for age, total in enumerate(totals)]
    assert tables.list_completed(sessions) == finished


def test_the_chart_of_returns_is_valid_and_holds_what_is_known() -> None:
    """Two values a session, fewer where there is no board; oldest first."""
    spec = tables.build_returns_chart([build_session(0), build_session(1, median_return=None)])
    alt.Chart.from_dict(spec)
    rows = [(row["day"], row["series"], row["percent"]) for row in spec["data"]["values"]]
    assert rows == [
        ("2013-02-28", "Best", "+4.00%"),
        ("2013-03-01", "Best", "+5.00%"),
        ("2013-03-01", "Median", "+0.25%"),
    ]


def test_sessions_as_a_table() -> None:
    """One row a session, in the order given."""
    frame = tables.build_sessions_table([build_session(0), build_session(1, best_return=None)])
    assert list(frame["session"]) == [DAY, DAY - timedelta(days=1)]
    assert list(frame["quests"]) == [100.0, 90.0]
    assert frame["best"].isna().tolist() == [False, True]
