"""Distributions, retention and charts of the Players page."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import altair as alt
import pytest

from core.records import Cohort, LastSeen, PlayerDay, PlayerReport, SilentPlayer, Streak
from dashboard.pages.players import charts, tables

TODAY = date(2026, 3, 12)
MONDAY = date(2026, 3, 9)


def build_report(**changes: object) -> PlayerReport:
    """Return a report on ten players in two cohorts, with these fields changed."""
    values = {
        "today": TODAY,
        "players": 10,
        "last_seen": (LastSeen(TODAY, 4), LastSeen(TODAY - timedelta(days=6), 2)),
        "seen_earlier": 3,
        "never_seen": 1,
        "windows": (),
        "streaks": (Streak(1, 2), Streak(30, 1)),
        "cohorts": (Cohort(MONDAY - timedelta(days=14), 4, (4, None, 1)), Cohort(MONDAY, 2, (2,))),
    }
    return PlayerReport(**(values | changes))  # type: ignore[arg-type]  # of the right types


def measure_contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours, as WCAG 2 defines it."""

    def measure(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    low, high = sorted((measure(first), measure(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("limit", "fill", "text"), [*charts.LIGHT_HEAT, *charts.DARK_HEAT])
def test_numbers_of_the_heat_table_are_readable(limit: int, fill: str, text: str) -> None:
    """In each cell the text has a contrast of at least 4.5 to the cell's own background."""
    assert limit > 0
    assert measure_contrast(fill, text) >= 4.5


@pytest.mark.parametrize(("heat", "page"), [(charts.LIGHT_HEAT, "#ffffff"), (charts.DARK_HEAT, "#0e1117")])
def test_a_high_share_stands_out_from_the_page(heat: tuple[tuple[int, str, str], ...], page: str) -> None:
    """In both themes, a cell of a higher share has more contrast to the page's background."""
    contrasts = [measure_contrast(fill, page) for _, fill, _ in heat]
    assert contrasts == sorted(contrasts)
    assert contrasts[0] < 1.3
    spec = charts.build_retention_chart(build_report(), is_dark=heat is charts.DARK_HEAT)
    assert {row["fill"] for row in spec["layer"][0]["data"]["values"]} <= {fill for _, fill, _ in heat}


def test_buckets_count_days_since_seen_and_streaks() -> None:
    """The buckets count players by days since they were last seen, and by the length of their streak."""
    silence = {bucket.label: bucket.players for bucket in tables.group_silence(build_report())}
    assert {label: players for label, players in silence.items() if players} == {
        "Today": 4,
        "2 to 6 days": 2,
        "Over 90 days": 3,
    }
    streaks = {bucket.label: bucket.players for bucket in tables.group_streaks(build_report())}
    assert (streaks["1"], streaks["30 or more"]) == (2, 1)
    assert sum(streaks.values()) == 3


def test_retention_has_no_cell_for_a_week_without_a_session() -> None:
    """A week without a session and a future week have no cell; the running week is marked `so far`."""
    cells = list(tables.list_retention(build_report()))
    assert [(cell.since, cell.percent, cell.is_open) for cell in cells] == [
        (0, 100.0, False),
        (2, 25.0, True),
        (0, 100.0, True),
    ]
    table = tables.build_retention_table(build_report())
    assert list(table.columns) == ["week", "players", "week 0", "week 1", "week 2"]
    assert table["week 1"].isna().all()
    assert list(table["week 0"]) == ["4 (100%)", "2 (100%, so far)"]
    assert table["week 2"][0] == "1 (25.0%, so far)"


def test_retention_of_a_small_cohort_is_a_number() -> None:
    """A small cohort shows counts such as 2/3; a large one shows 100% only for all, and 0% only for none."""
    cohorts = (
        Cohort(MONDAY - timedelta(days=7), 3, (3, 2)),
        Cohort(MONDAY - timedelta(days=7), 1_000, (1_000, 999)),
        Cohort(MONDAY - timedelta(days=7), 1_000, (1, 0)),
    )
    cells = [cell.describe() for cell in tables.list_retention(build_report(cohorts=cohorts))]
    assert cells == ["3/3", "2/3", "100%", ">99%", "<1%", "0%"]


def test_days_without_a_session_have_no_point() -> None:
    """The line of players passes over a day without a session; the open session has a separate point."""
    days = [
        PlayerDay(TODAY - timedelta(days=age), played, played, 1)
        for age, played in ((3, 5), (2, 0), (1, 4), (0, 2))
    ]
    line, points = charts.build_days_chart(days)["layer"]
    found = [(row["day"][-2:], row["players"]) for row in line["data"]["values"] if row["series"] == "Played"]
    assert found == [("09", 5), ("11", 4)]
    assert [row["day"][-2:] for row in line["data"]["values"] if row["series"] == "New"] == ["09", "10", "11"]
    assert {row["session"] for row in points["data"]["values"]} == {"Thu 12 Mar 2026, so far"}
    table = tables.build_days_table(days)
    assert list(table["state"]) == ["so far", "finished", "no session", "finished"]
    assert list(table["played"]) == [2, 4, 0, 5]
    assert points["mark"]["filled"] is False
    assert line["encoding"]["x"]["scale"]["domain"] == [day.day.isoformat() for day in days]


def test_last_seen_is_the_later_of_activity_and_session() -> None:
    """A player was last seen at the later of the last activity and the last session."""
    day = date(2026, 1, 20)
    for active in (None, datetime(2026, 1, 3, tzinfo=UTC)):
        table = tables.build_silent_table([build_silent(last_active=active, last_session=day)])
        assert list(table["seen"]) == [day]
    assert list(tables.build_silent_table([build_silent(last_session=None)])["seen"]) == [date(2026, 1, 31)]


def build_silent(**changes: object) -> SilentPlayer:
    """Return a player who was silent for forty days, with these fields changed."""
    day = TODAY - timedelta(days=40)
    moment = datetime.combine(day, time(9), UTC)
    values = {
        "user_id": UUID(int=1),
        "username": "alice",
        "joined_at": moment,
        "last_active": moment,
        "last_session": day,
        "days_silent": 40,
        "sessions": 3,
        "rank": 67,
        "ranked": 1_024,
        "return_percent": Decimal("1.25"),
        "quest_title": "Win 3 sessions this week",
        "quest_status": "COMPLETED",
    }
    return SilentPlayer(**(values | changes))  # type: ignore[arg-type]  # of the right types


def test_returns_shown_as_zero_have_no_sign() -> None:
    """A return has a sign unless it is shown as 0.00%; an unknown return is an empty cell."""
    returns = [Decimal("1.25"), Decimal("-0.3"), Decimal("0.004"), Decimal("-0.004"), None]
    table = tables.build_silent_table([build_silent(return_percent=value) for value in returns])
    assert list(table["return"].fillna("")) == ["+1.25%", "-0.30%", "0.00%", "0.00%", ""]


def test_charts_are_valid() -> None:
    """The Vega-Lite schema of Altair accepts each chart."""
    days = [PlayerDay(TODAY - timedelta(days=age), age, age, 0) for age in (2, 1, 0)]
    for spec in (
        charts.build_retention_chart(build_report(), is_dark=False),
        charts.build_days_chart(days),
        charts.build_bars(tables.group_silence(build_report()), title="Days"),
    ):
        alt.Chart.from_dict(spec).to_dict()


def test_a_chart_of_few_rows_has_room_for_each() -> None:
    """A chart is at least 24 pixels high per row, plus 60 pixels for the axis."""
    for weeks in (1, 2, 13):
        cohorts = tuple(Cohort(MONDAY, 2, (2,)) for _ in range(weeks))
        assert (
            charts.build_retention_chart(build_report(cohorts=cohorts), is_dark=False)["height"]
            >= weeks * 24 + 60
        )
    bars = tables.group_silence(build_report())
    assert charts.build_bars(bars, title="Days")["height"] >= len(bars) * 24 + 60


def test_every_row_of_a_chart_has_its_label() -> None:
    """The charts set labelOverlap to false, because Vega otherwise hides every second label of low rows."""
    heat = charts.build_retention_chart(build_report(), is_dark=False)["layer"]
    bars = charts.build_bars(tables.group_silence(build_report()), title="Days")
    for spec in (*heat, bars):
        assert spec["encoding"]["y"]["axis"]["labelOverlap"] is False
