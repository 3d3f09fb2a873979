"""Sums, tables and the funnel of quests."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import altair as alt
import pytest

from core.records import PlayerQuest, Quest, QuestPace, QuestTotals
from dashboard import formats
from dashboard.pages.quests import tables

NOW = datetime(2013, 3, 1, 21, tzinfo=UTC)


def build_totals(type: str = "DAILY", reward_type: str | None = "COINS", **changes: int) -> QuestTotals:  # noqa: A002  # the column's name
    """Return ten quests: eight started, four halfway, two completed, three active."""
    counts = {"given": 10, "started": 8, "halfway": 4, "completed": 2, "active": 3, "expiring": 1}
    return QuestTotals(
        type=type,
        reward_type=reward_type,
        earned=Decimal(40),
        open=Decimal(60),
        **(counts | changes),
    )


def build_quest(**changes: Any) -> Quest:
    """Return an active quest that is a quarter done."""
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


def test_a_summary_adds_up_all_types() -> None:
    """What is neither active nor completed has expired; the rate is of what is over."""
    summary = tables.summarize_quests([build_totals(), build_totals("WEEKLY")])
    assert (summary.given, summary.active, summary.completed, summary.expired) == (20, 6, 4, 10)
    assert summary.expiring == 2
    assert summary.completed_percent == pytest.approx(Decimal(400) / 14)


def test_nothing_over_has_no_rate() -> None:
    """No division by zero."""
    totals = build_totals(completed=0, active=10)
    assert tables.summarize_quests([totals]).completed_percent is None


def test_a_type_with_two_rewards_is_one_funnel() -> None:
    """The largest type comes first."""
    progress = tables.list_progress(
        [build_totals("SMALL", given=12), build_totals(), build_totals(reward_type="CASH")]
    )
    assert [(item.type, item.given, item.completed) for item in progress] == [
        ("DAILY", 20, 4),
        ("SMALL", 12, 2),
    ]


def test_a_funnel_has_shares_of_what_was_given() -> None:
    """In percent, each part of the one before."""
    [row] = tables.build_progress_table(tables.list_progress([build_totals()])).to_dict("records")
    assert (row["type"], row["given"], row["active"]) == ("Daily", 10, 3)
    assert (row["started"], row["halfway"], row["completed"]) == (80.0, 40.0, 20.0)


def test_the_chart_divides_each_bar_completely() -> None:
    """Valid, one bar a type, whose steps make the whole."""
    spec = tables.build_progress_chart(tables.list_progress([build_totals(), build_totals("WEEKLY")]))
    alt.Chart.from_dict(spec)
    rows = spec["data"]["values"]
    daily = [(row["step"], row["share"]) for row in rows if row["type"] == "Daily"]
    assert daily == [("Completed", 0.2), ("Halfway", 0.2), ("Started", 0.4), ("Not started", 0.2)]
    assert len(rows) == 8


def test_rewards_are_summed_by_kind() -> None:
    """Of all types; quests without a reward are left out."""
    rewards = tables.list_rewards(
        [
            build_totals(),
            build_totals("WEEKLY"),
            build_totals(reward_type=None),
            build_totals(reward_type="CASH"),
        ]
    )
    assert [(reward.kind, reward.earned, reward.open) for reward in rewards] == [
        ("CASH", 40, 60),
        ("COINS", 80, 120),
    ]
    assert (rewards[1].completed, rewards[1].active) == (4, 6)


@pytest.mark.parametrize(("kind", "text"), [("CASH", "$1,250.00"), ("cash", "$1,250.00"), ("COINS", "1,250")])
def test_an_amount_is_written_by_its_kind(kind: str, text: str) -> None:
    """Cash is money, anything else a count."""
    assert formats.format_amount(Decimal(1250), kind) == text


def test_an_expiring_quest_names_its_player_and_time() -> None:
    """The player is a link."""
    frame = tables.build_expiring_table([PlayerQuest("alice", build_quest())], NOW)
    [row] = frame.to_dict("records")
    assert row == {
        "player": "portfolios?player=alice",
        "title": "Gain 100 today",
        "progress": 25.0,
        "left": "3 h 0 min left",
    }


@pytest.mark.parametrize(("percent", "to_go"), [(25, 30.0), (100, 0.0), (0, None)])
def test_a_pace_estimates_the_days_to_go(percent: int, to_go: float | None) -> None:
    """A quarter in ten days leaves thirty; without progress there is no end."""
    pace = QuestPace("DAILY", "Gain", 3, Decimal(percent), Decimal(10))
    [row] = tables.build_pace_table([pace]).astype(object).to_dict("records")
    assert row["to_go"] == to_go


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
    """Or says nothing about one."""
    [row] = tables.build_player_table([build_quest(**changes)], NOW).to_dict("records")
    assert row["reward"] == reward


def test_a_finished_quest_has_no_time_left() -> None:
    """And is never more than done."""
    quest = build_quest(status="COMPLETED", current_progress=Decimal(130))
    [row] = tables.build_player_table([quest], NOW).to_dict("records")
    assert (row["status"], row["progress"], row["left"]) == ("Completed", 100.0, "")
