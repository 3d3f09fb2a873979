"""Sums, tables, texts and the chart of the Quests page."""

import csv
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import altair as alt
import pytest

from core.records import (
    CompletionTime,
    PlayerQuest,
    Quest,
    QuestOutcome,
    QuestReturn,
    QuestTotals,
    StuckQuest,
    StuckQuests,
)
from core.simulation import quests
from dashboard import formats
from dashboard.downloads import write_csv
from dashboard.pages.quests import charts, download, tables

NOW = datetime(2013, 3, 1, 21, tzinfo=UTC)


def build_totals(type: str = "DAILY", reward_type: str | None = "COINS", **changes: int) -> QuestTotals:  # noqa: A002  # the column's name
    """Return the totals of ten quests: eight started, four halfway, two completed, three active."""
    counts = {"given": 10, "started": 8, "halfway": 4, "completed": 2, "active": 3, "expiring": 1}
    return QuestTotals(
        type=type,
        reward_type=reward_type,
        earned=Decimal(40),
        open=Decimal(60),
        **(counts | changes),
    )


def build_quest(**changes: Any) -> Quest:
    """Return an active quest of which a quarter is done, with these fields changed."""
    values: dict[str, Any] = {
        "id": UUID(int=1),
        "user_id": UUID(int=2),
        "type": "DAILY",
        "title": "Gain 100 today",
        "description": None,
        "target_value": Decimal(100),
        "current_progress": Decimal(25),
        "status": "ACTIVE",
        "reward_type": "COINS",
        "reward_value": Decimal(20),
        "created_at": NOW,
        "expires_at": NOW + timedelta(hours=3),
    }
    return Quest(**(values | changes))


MONDAY = date(2013, 2, 25)


def build_outcome(
    quest_type: str = "DAILY", reward_type: str | None = "COINS", **changes: Any
) -> QuestOutcome:
    """Return the outcome of ten ended quests: eight started, four halfway, two completed."""
    values: dict[str, Any] = {"week": MONDAY, "ended": 10, "started": 8, "halfway": 4, "completed": 2}
    return QuestOutcome(type=quest_type, reward_type=reward_type, earned=Decimal(40), **(values | changes))


def test_a_type_with_two_rewards_and_weeks_is_one_bar() -> None:
    """Outcomes of one type are summed over rewards and weeks; the type with most ended quests is first."""
    progress = tables.list_progress(
        [build_outcome("SMALL", ended=12), build_outcome(reward_type="CASH"), build_outcome(week=None)]
    )
    assert [(item.type, item.ended, item.completed) for item in progress] == [
        ("DAILY", 20, 4),
        ("SMALL", 12, 2),
    ]


def test_shares_are_of_ended_quests() -> None:
    """The shares are of ended quests, and running quests are counted in a separate column."""
    table = tables.build_progress_table(
        tables.list_progress([build_outcome()]), [build_totals(active=3), build_totals("NEW", active=7)]
    )
    daily, new = table.to_dict("records")
    assert daily == {
        "type": "Daily",
        "ended": "10",
        "completed": "2",
        "step 0": "20%",
        "step 1": "20%",
        "step 2": "40%",
        "step 3": "20%",
        "running": "3",
    }
    assert (new["type"], new["ended"], new["step 0"], new["running"]) == ("New", "0", "-", "7")


def test_the_table_and_the_chart_have_the_same_steps() -> None:
    """The table and the chart show the same four steps with the same shares."""
    progress = tables.list_progress([build_outcome()])
    [row] = tables.build_progress_table(progress, []).to_dict("records")
    drawn = charts.build_progress_chart(progress, is_dark=False)["data"]["values"]
    assert [item["step"] for item in drawn] == list(tables.STEPS)
    assert [f"{item['share']:.0%}" for item in drawn] == [row[f"step {place}"] for place in range(4)]
    assert sum(progress[0].count_steps()) == progress[0].ended


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({}, "**No quest with a deadline ended in this window**: no type is best or worst."),
        (
            {"A": (1, 1), "B": (9, 0)},
            (
                "**Fewer than 10 quests of each type with a deadline ended in this window**: no type is best "
                "or worst."
            ),
        ),
        (
            {"A": (10, 3), "B": (9, 9)},
            (
                "**A**: 30% (3 of 10) were completed. No other type with a deadline has 10 ended quests in "
                "this window."
            ),
        ),
        (
            {"A": (10, 3), "B": (20, 6)},
            "**All types with a deadline are completed equally often**: 30.0% of the ended quests.",
        ),
        (
            {"DAILY_LEAD": (10, 3), "B": (20, 5), "C": (40, 20), "MILESTONE": (70, 70)},
            "Completed most often: **C**, 50% (20 of 40); least often: **B**, 25% (5 of 20).",
        ),
    ],
)
def test_the_best_and_the_worst_type_are_named(counts: dict[str, tuple[int, int]], text: str) -> None:
    """The text compares types with a deadline and at least 10 ended quests; milestones have no deadline."""
    outcomes = [
        build_outcome(name, ended=ended, completed=completed) for name, (ended, completed) in counts.items()
    ]
    assert tables.describe_rates(tables.list_progress(outcomes)) == text


def test_quests_without_a_deadline_are_described_separately() -> None:
    """Milestones have no deadline, so a text describes them, and they are in no chart and no table."""
    outcomes = [build_outcome(), build_outcome("MILESTONE", ended=7, started=7, halfway=7, completed=7)]
    totals = [build_totals(), build_totals("MILESTONE", active=100)]
    assert [item.type for item in tables.list_progress(outcomes)] == ["DAILY"]
    assert list(tables.build_progress_table(tables.list_progress(outcomes), totals)["type"]) == ["Daily"]
    assert list(tables.build_weeks_table(outcomes, since=None, today=MONDAY)) == ["week", "type DAILY"]
    rest = "100 running. No deadline, so these quests end only by completion and are in no rate."
    for since, first in ((None, "Mon 25 Feb 2013"), (date(2013, 2, 27), "Wed 27 Feb 2013")):
        text = tables.describe_endless(outcomes, totals, since=since)
        assert text == f"Milestone: 7 completed since {first}, {rest}"
    assert tables.describe_endless([], totals, since=None) == f"Milestone: 0 completed, {rest}"
    assert tables.describe_endless(outcomes[:1], totals[:1], since=None) == ""


def test_types_of_the_game_are_described() -> None:
    """Each type of the game among the quests has a line that describes its task; other types have none."""
    lines = tables.describe_types(
        [build_totals("DAILY_LEAD"), build_totals("MILESTONE"), build_totals("*T*")]
    )
    assert lines.split("  \n") == [
        f"**Daily lead**: {quests.INSTRUCTIONS['DAILY_LEAD']}",
        "**Milestone**: Finish 10 sessions with a gain; the next ones: 25, 50 and so on.",
    ]
    assert tables.describe_types([build_totals("*T*")]) == ""


def test_the_chart_divides_each_bar_completely() -> None:
    """The steps of each bar add up to 100%, and the Vega-Lite schema accepts the chart."""
    progress = tables.list_progress([build_outcome(), build_outcome("WEEKLY")])
    spec = charts.build_progress_chart(progress, is_dark=False)
    alt.Chart.from_dict(spec)
    rows = spec["data"]["values"]
    daily = [(row["step"], row["share"]) for row in rows if row["type"] == "Daily"]
    assert daily == [
        ("Completed", 0.2),
        ("At least half", 0.2),
        ("Less than half", 0.4),
        ("Not started", 0.2),
    ]
    assert len(rows) == 8


def measure_luminance(colour: str) -> float:
    """Return the relative luminance of a colour, as WCAG 2 defines it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(("palette", "background"), [(charts.LIGHT, "#ffffff"), (charts.DARK, "#0e1117")])
def test_every_step_of_the_chart_can_be_seen(palette: tuple[str, ...], background: str) -> None:
    """Each colour of a step has a contrast of at least 4.5 to the background of its theme."""
    for colour in palette:
        low, high = sorted((measure_luminance(colour), measure_luminance(background)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour


def test_the_weeks_table_has_a_column_per_type() -> None:
    """The newest week is first and an unknown week last; a type without ended quests has an empty cell."""
    table = tables.build_weeks_table(
        [
            build_outcome(week=None),
            build_outcome("WEEKLY", ended=4, completed=1),
            build_outcome(week=MONDAY + timedelta(days=7), completed=5),
        ],
        since=None,
        today=date(2013, 3, 11),
    )
    assert list(table["week"]) == ["2013-03-04", "2013-02-25", "unknown"]
    assert list(table["of ALL_TYPES"]) == ["50% (5 of 10)", "25% (1 of 4)", "20% (2 of 10)"]
    assert list(table["type DAILY"]) == ["50% (5 of 10)", "", "20% (2 of 10)"]
    assert list(table["type WEEKLY"]) == ["", "25% (1 of 4)", ""]


@pytest.mark.parametrize(
    ("since", "today", "text"),
    [
        (None, date(2013, 3, 3), "2013-02-25 (so far)"),
        (MONDAY, date(2013, 3, 4), "2013-02-25"),
        (date(2013, 2, 27), date(2013, 3, 4), "2013-02-25 (from Wed)"),
        (date(2013, 2, 27), date(2013, 3, 1), "2013-02-25 (from Wed, so far)"),
    ],
)
def test_an_incomplete_week_is_marked(since: date | None, today: date, text: str) -> None:
    """A running week is marked `so far`; a week in which the window begins shows that weekday."""
    assert tables.format_week(MONDAY, since=since, today=today) == text


def test_the_weeks_table_orders_types_by_ended_quests() -> None:
    """The column of all types is first, then the types by ended quests; a single type has no such column."""
    outcomes = [build_outcome("A", ended=3), build_outcome("B", ended=9), build_outcome("C", ended=5)]
    table = tables.build_weeks_table(outcomes, since=None, today=MONDAY)
    rows = tables.build_progress_table(tables.list_progress(outcomes), [])
    assert (
        [str(name).removeprefix("type ") for name in table.columns[2:]]
        == list(rows["type"])
        == ["B", "C", "A"]
    )
    assert list(table.columns[:2]) == ["week", "of ALL_TYPES"]
    alone = tables.build_weeks_table(outcomes[:1], since=None, today=MONDAY)
    assert list(alone) == ["week", "type A"]


def test_rewards_are_summed_by_kind_and_week() -> None:
    """Rewards are summed by kind and by week, and quests without a reward are left out."""
    outcomes = [build_outcome(), build_outcome("WEEKLY"), build_outcome(reward_type=None)]
    outcomes.append(build_outcome(reward_type="CASH", week=MONDAY - timedelta(days=7)))
    rewards = tables.list_rewards(outcomes, [build_totals(), build_totals(reward_type="BADGE")])
    assert rewards == [("Badge", "0", "60"), ("Cash", "$40.00", "$0.00"), ("Coins", "80", "60")]
    table = tables.build_rewards_table(outcomes, since=None, today=date(2013, 3, 4))
    assert table.to_dict("list") == {
        "week": ["2013-02-25", "2013-02-18"],
        "kind CASH": ["", "$40.00"],
        "kind COINS": ["80", ""],
    }


def test_a_median_is_written_in_its_largest_units() -> None:
    """A median time has its two largest units and stands before the title, so that a phone shows it."""
    times = [CompletionTime("DAILY", "Gain", 1200, timedelta(days=2, hours=5, minutes=59))]
    [row] = tables.build_times_table(times).to_dict("records")
    assert row == {"title": "Gain", "type": "Daily", "completed": "1,200", "median": "2 d 5 h"}
    assert list(row)[:2] == ["median", "title"], "what a phone shows"
    assert tables.describe_duration(None) == "-"


def test_returns_are_compared_in_points() -> None:
    """Types are ordered by the size of their difference in return rates; types without one are last."""
    returns = [
        QuestReturn("SAME", 1_000, 800, 1_000, 801),
        QuestReturn("ALL", 500, 500, 0, 0),
        QuestReturn("FEW", 99, 99, 1_000, 1),
        QuestReturn("LESS", 1_000, 700, 2_000, 1_500),
        QuestReturn("MORE", 1_000, 800, 2_000, 1_400),
    ]
    table = tables.build_returns_table(tables.compare_returns(returns)).to_dict("records")
    assert [(row["type"], row["verdict"], row["difference"]) for row in table] == [
        ("More", "more often", "+10.00 pts"),
        ("Less", "less often", "-5.00 pts"),
        ("Same", "no visible difference", "-0.10 pts"),
        ("All", "everybody had one", "-"),
        ("Few", "too few sessions", "-"),
    ]
    assert (table[0]["with"], table[0]["without"]) == ("80.0% of 1,000", "70.0% of 2,000")
    assert (table[3]["with"], table[3]["without"]) == ("100% of 500", "-")


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((100, 60, 100, 50), "no visible difference"),  # p-value 0.155
        ((100, 64, 100, 50), "more often"),  # p-value 0.045
        ((100, 63, 100, 50), "no visible difference"),  # p-value 0.064
        ((100, 50, 100, 64), "less often"),
        ((1_000_000, 995_000, 1_000_000, 990_000), "no visible difference"),  # a difference of 0.5 points
        ((100, 100, 100, 100), "no visible difference"),
        ((100, 0, 100, 0), "no visible difference"),
        ((99, 99, 100, 0), "too few sessions"),
        ((100, 100, 99, 0), "too few sessions"),
    ],
)
def test_an_insignificant_difference_is_not_visible(counts: tuple[int, int, int, int], verdict: str) -> None:
    """A visible difference is at least 1 point, and the z-test of the two proportions has p below 0.05."""
    [found] = tables.compare_returns([QuestReturn("A", *counts)])
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("returns", "text"),
    [
        ([(10, 8, 20, 15)], "**Too little to compare**: no type has 100 sessions with and without it."),
        ([(500, 400, 500, 400), (10, 8, 20, 15)], "**No visible difference** with any type."),
        (
            [(500, 400, 500, 300), (500, 300, 500, 400), (500, 450, 500, 300)],
            (
                "Players return more often with **T2** (+30.00 pts), **T0** (+20.00 pts). "
                "Players return less often with **T1** (-20.00 pts)."
            ),
        ),
    ],
)
def test_the_comparison_has_a_verdict(returns: list[tuple[int, int, int, int]], text: str) -> None:
    """The text names the types with a visible difference, or states that there is none."""
    found = tables.compare_returns(QuestReturn(f"T{place}", *counts) for place, counts in enumerate(returns))
    assert tables.describe_returns(found) == text


@pytest.mark.parametrize(
    ("stuck", "text"),
    [
        (
            StuckQuests(players=37, quests=38, untouched=11, behind=0, unseen=32, first=()),
            (
                "**38 stuck quests** of 37 players: 11 without progress, 0 behind, 27 on time, but of "
                "players who were not seen for 7 days. In all, 32 are of players who were not seen for 7 "
                "days."
            ),
        ),
        (
            StuckQuests(players=1, quests=1, untouched=1, behind=0, unseen=1, first=()),
            (
                "**1 stuck quest** of 1 player: 1 without progress, 0 behind, 0 on time, but of players "
                "who were not seen for 7 days. In all, 1 is of players who were not seen for 7 days."
            ),
        ),
    ],
)
def test_reasons_of_stuck_quests_add_up(stuck: StuckQuests, text: str) -> None:
    """The first sentence counts each quest for one reason; the second counts quests of unseen players."""
    assert tables.describe_stuck(stuck) == text


def test_types_that_cannot_be_compared_are_named() -> None:
    """A type without sessions to compare is named once, even if it has several rewards."""
    returns = [QuestReturn("DAILY", 10, 8, 20, 15)]
    totals = [
        build_totals("DAILY", "COINS"),
        build_totals("LEAD", "COINS"),
        build_totals("LEAD", "XP"),
        build_totals("DAILY_GAIN", "COINS"),
    ]
    assert tables.describe_not_compared(returns, totals) == (
        " Not compared, because no such session was played with one: Daily gain, Lead."
    )
    assert tables.describe_not_compared(returns, totals[:1]) == ""


def test_a_stuck_quest_names_player_and_reasons() -> None:
    """The row and the CSV line of a stuck quest have the player and the reasons, and no formula."""
    quest = build_quest(title="=1+1")
    stuck = StuckQuest("-alice", None, is_untouched=True, is_behind=False, is_unseen=True, quest=quest)
    [row] = tables.build_stuck_table([stuck], NOW + timedelta(hours=1)).to_dict("records")
    assert row["reason"] == "no progress, player not seen"
    assert (row["player"], row["running"]) == ("portfolios?player=-alice", "1 h")
    assert (row["left"], row["seen"]) == ("2 h 0 min left", "never")
    [line] = csv.DictReader("".join(write_csv(download.COLUMNS, [download.build_row(stuck)])).splitlines())
    assert (line["username"], line["title"], line["type"]) == ("'-alice", "'=1+1", "DAILY")
    assert (line["last_active"], line["reasons"]) == ("", "no progress, player not seen")
    assert (line["current_progress"], line["target_value"]) == ("25", "100")
    assert line["created_at"] == "2013-03-01T21:00:00+00:00"


def test_a_quest_past_its_deadline_is_expired() -> None:
    """An active quest past its deadline is shown as expired before maintenance changes its status."""
    [row] = tables.build_player_table([build_quest()], NOW + timedelta(hours=4)).to_dict("records")
    assert row["status"] == "Expired"


@pytest.mark.parametrize(("kind", "text"), [("CASH", "$1,250.00"), ("cash", "$1,250.00"), ("COINS", "1,250")])
def test_an_amount_is_written_by_its_kind(kind: str, text: str) -> None:
    """An amount of cash has a dollar sign and cents; any other kind is a plain number."""
    assert formats.format_amount(Decimal(1250), kind) == text


def test_an_expiring_quest_names_its_player_and_time() -> None:
    """The row of an expiring quest has a link to the player and the time left."""
    frame = tables.build_expiring_table([PlayerQuest("alice", build_quest())], NOW)
    [row] = frame.to_dict("records")
    assert row == {
        "player": "portfolios?player=alice",
        "title": "Gain 100 today",
        "progress": 25.0,
        "left": "3 h 0 min left",
    }


@pytest.mark.parametrize(
    ("changes", "reward"),
    [
        ({}, "20 coins"),
        ({"reward_type": "CASH"}, "$20.00 cash"),
        ({"reward_value": None}, "Coins"),
        ({"reward_type": None}, ""),
    ],
)
def test_a_players_quest_has_its_reward(changes: dict[str, Any], reward: str) -> None:
    """The reward is shown with its amount and kind; a quest without a reward has an empty cell."""
    [row] = tables.build_player_table([build_quest(**changes)], NOW).to_dict("records")
    assert row["reward"] == reward


def test_a_finished_quest_has_no_time_left() -> None:
    """A completed quest has no time left, and its progress is at most 100%."""
    quest = build_quest(status="COMPLETED", current_progress=Decimal(130))
    [row] = tables.build_player_table([quest], NOW).to_dict("records")
    assert (row["status"], row["progress"], row["left"]) == ("Completed", 100.0, "")
