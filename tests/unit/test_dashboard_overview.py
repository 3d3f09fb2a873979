"""Headline values, charts and tables of the Overview page."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import altair as alt

from core.records import MarketEvent, SeenPlayers, SessionSummary, Tick
from dashboard.pages.overview import charts, tables
from dashboard.pages.overview.data import Market

DAY = date(2013, 3, 1)
AFTER = DAY + timedelta(days=1)


def build_session(age: int = 0, **changes: Any) -> SessionSummary:
    """Return a session of `age` days ago; a later session has more players and higher returns."""
    values: dict[str, Any] = {
        "session_date": DAY - timedelta(days=age),
        "signed_up": 1_200 - age,
        "played": 1_000 - age,
        "traded": 900 - 2 * age,
        "players": 1_000 - age,
        "best_return": Decimal(5) - age,
        "median_return": Decimal("0.25") - age,
        "quests_completed": 10 + age,
        "events": 3 - age,
    }
    return SessionSummary(**(values | changes))


def build_headlines(*sessions: SessionSummary, today: date = AFTER) -> dict[str, tables.Headline]:
    """Return the headlines of these sessions (newest first) by their label."""
    found = tables.build_headlines(sessions, seen_today=SeenPlayers(900, 1_234), today=today)
    return {headline.label: headline for headline in found}


def test_headlines_of_a_finished_session_have_differences() -> None:
    """Each headline has the difference to the session before; `Seen today` has the number of all players."""
    headlines = build_headlines(build_session(0), build_session(1))
    assert [(label, item.value, item.note) for label, item in headlines.items()] == [
        ("Seen today", "900", "of 1,234 players"),
        ("Played", "1,000", "+1"),
        ("Traded", "900", "+2"),
        ("Players", "1,200", "+1"),
        ("Median return", "+0.25%", "+1.00 pts"),
        ("Best return", "+5.00%", "+1.00 pts"),
        ("Quests completed", "10", "-1"),
        ("Events of the day", "3", "+1"),
    ]


def test_headlines_of_an_open_session_have_no_difference() -> None:
    """A headline of an open session is marked `so far` and shows the value of the session before."""
    headlines = build_headlines(build_session(0), build_session(1), today=DAY)
    assert not any(item.is_change for item in headlines.values())
    assert headlines["Median return"].note == "so far; 28 Feb: -0.75%"
    assert headlines["Quests completed"].note == "so far; 28 Feb: 11"
    assert build_headlines(build_session(0), today=DAY)["Played"].note == "so far"


def test_trends_are_of_finished_sessions_oldest_first() -> None:
    """A trend has finished sessions only, because an open session would end the trend with a fall."""
    sessions = [build_session(age) for age in range(3)]
    finished, still_open = build_headlines(*sessions), build_headlines(*sessions, today=DAY)
    assert finished["Played"].trend == (998.0, 999.0, 1_000.0)
    assert finished["Median return"].trend == (-1.75, -0.75, 0.25)
    assert finished["Quests completed"].trend == (12.0, 11.0, 10.0)
    assert still_open["Played"].trend == (998.0, 999.0)
    assert still_open["Median return"].trend == (-1.75, -0.75)


def test_only_returns_are_gains_or_losses() -> None:
    """Only the two returns are coloured as a gain or a loss; counts are not."""
    headlines = build_headlines(build_session(0), build_session(1))
    assert [label for label, item in headlines.items() if item.is_change] == ["Median return", "Best return"]


def test_an_unchanged_return_is_no_gain() -> None:
    """A return with a difference of 0.00 gets no green arrow."""
    median = build_headlines(build_session(), build_session())["Median return"]
    assert (median.note, median.is_change) == ("0.00 pts", False)


def test_a_first_session_has_no_change() -> None:
    """Without a session before, the headlines have no difference."""
    headlines = build_headlines(build_session())
    assert [item.note for item in headlines.values()] == ["of 1,234 players", *[None] * 7]


def test_a_session_without_leaderboards_has_dashes() -> None:
    """A session without leaderboards shows dashes as returns, and the trends leave the session out."""
    bare = build_session(best_return=None, median_return=None)
    headlines = build_headlines(bare, build_session(1))
    assert headlines["Median return"].value == headlines["Best return"].value == "-"
    assert headlines["Median return"].trend == (-0.75,)


def build_event(title: str, moment: datetime) -> MarketEvent:
    """Return a market event with this title and time."""
    return MarketEvent(UUID(int=1), "T", title, None, (), None, "NEUTRAL", moment)


def list_values(spec: dict[str, Any], layer: int) -> list[dict[str, Any]]:
    """Return the rows of one layer of a chart."""
    rows: list[dict[str, Any]] = spec["layer"][layer]["data"]["values"]
    return rows


def test_the_chart_of_returns_has_every_known_return() -> None:
    """The chart has the best and the median return of each session, the oldest first."""
    sessions = [build_session(0, events=0), build_session(1, median_return=None, events=0)]
    spec = charts.build_returns_chart(sessions, (), today=AFTER)
    alt.LayerChart.from_dict(spec)
    assert len(spec["layer"]) == 1
    rows = [(row["day"], row["series"], row["percent"]) for row in list_values(spec, 0)]
    assert rows == [
        ("2013-02-28", "Best", "+4.00%"),
        ("2013-03-01", "Best", "+5.00%"),
        ("2013-03-01", "Median", "+0.25%"),
    ]


def test_an_open_session_has_hollow_points() -> None:
    """An open session has hollow points marked `so far`, which no line joins to finished sessions."""
    sessions = [build_session(0, events=0), build_session(1, events=0)]
    spec = charts.build_returns_chart(sessions, (), today=DAY)
    alt.LayerChart.from_dict(spec)
    assert {row["day"] for row in list_values(spec, 0)} == {"2013-02-28"}
    assert [row["session"] for row in list_values(spec, 1)] == ["Fri 1 Mar 2013 (so far)"] * 2
    assert spec["layer"][1]["mark"]["filled"] is False


def test_events_are_marked_on_the_session_of_their_utc_day() -> None:
    """An event is marked on the session of its day in UTC; an event of another day has no mark."""
    late = datetime(2013, 3, 1, 23, 30, tzinfo=timezone(-timedelta(hours=5)))
    events = [
        build_event("next day", late),
        build_event("of the day", datetime(2013, 3, 1, 20, tzinfo=UTC)),
        build_event("before", datetime(2013, 2, 28, 9, tzinfo=UTC)),
    ]
    spec = charts.build_returns_chart([build_session(0), build_session(1)], events, today=DAY)
    alt.LayerChart.from_dict(spec)
    marks = {row["day"]: row["events"] for row in list_values(spec, 2)}
    assert list(marks) == ["2013-02-28", "2013-03-01"]
    assert "of the day" in marks["2013-03-01"]
    assert "before" in marks["2013-02-28"]


def test_sessions_as_a_table() -> None:
    """The table has one row per session in the given order; the session of today is marked `so far`."""
    sessions = [build_session(0), build_session(1, best_return=None)]
    frame = tables.build_sessions_table(sessions, today=DAY)
    assert list(frame["session"]) == [DAY, DAY - timedelta(days=1)]
    assert list(frame["state"]) == ["so far", "finished"]
    assert list(frame["quests"]) == [10, 11]
    assert frame["best"].isna().tolist() == [False, True]


def test_a_later_session_does_not_finish_today() -> None:
    """A session of today is open by the clock, even if there are rows of a later session."""
    sessions = [build_session(age) for age in (-1, 0, 1)]
    assert list(tables.build_sessions_table(sessions, today=DAY)["state"]) == ["so far", "so far", "finished"]
    spec = charts.build_returns_chart(sessions, (), today=DAY)
    assert {row["day"] for row in list_values(spec, 0)} == {"2013-02-28"}
    assert {row["session"] for row in list_values(spec, 1)} == {
        "Fri 1 Mar 2013 (so far)",
        "Sat 2 Mar 2013 (so far)",
    }


def test_a_count_that_did_not_change_has_no_sign() -> None:
    """The difference of an unchanged count is shown as 0 without a sign."""
    assert build_headlines(build_session(0), build_session(0))["Played"].note == "0"


def test_the_time_of_the_movers_prices_is_shown() -> None:
    """The text has the time of the newest price and the number of symbols without a recent price."""
    noon = datetime(2013, 3, 1, 12, tzinfo=UTC)
    market = Market((Tick("AAPL", noon, Decimal(1)),), (), stale=2)
    assert tables.describe_movers(market, noon + timedelta(hours=3)) == (
        "Prices up to 1 Mar 2013 12:00. Left out: 2 symbols without a price in the 24 hours before."
    )
    assert tables.describe_movers(Market(market.ticks, ()), noon + timedelta(days=3)) == (
        "No price in the last 24 hours. Prices up to 1 Mar 2013 12:00."
    )
