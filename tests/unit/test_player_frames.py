"""A player's sessions turned into curves and charts."""

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import altair as alt
import pytest
from frozendict import frozendict

from core.records import MarketReturn, PlayerScore, Portfolio, User
from dashboard import player_charts
from dashboard import player_frames as frames
from tests.unit.test_dashboard_frames import build_history

HISTORY = build_history(["300", "-500", "100"])
"""Newest first: 10,100, then 9,600, then 9,900."""
DAYS = [row.session_date for row in HISTORY][::-1]


def build_user(**changes: object) -> User:
    """Return a player."""
    values = {
        "id": UUID(int=1),
        "username": "alice",
        "name": None,
        "email": None,
        "last_active": None,
        "preferences": frozendict(),
        "created_at": datetime(2013, 1, 1, tzinfo=UTC),
        "updated_at": datetime(2013, 1, 1, tzinfo=UTC),
    }
    return User(**(values | changes))  # type: ignore[arg-type]  # a record of the test


def test_equity_adds_up_the_gains() -> None:
    """From the starting cash, oldest first, and only since a session."""
    curve = frames.build_curve("alice", HISTORY, since=DAYS[0])
    assert curve.days == tuple(DAYS)
    assert curve.equity == (Decimal(10_100), Decimal(9_600), Decimal(9_900))
    assert frames.build_curve("alice", HISTORY, since=DAYS[2]).equity == (Decimal(10_300),)


def test_the_market_is_followed_on_the_days_of_the_player() -> None:
    """A day that the player did not play counts for neither."""
    days = [DAYS[0], DAYS[2]]
    curve = frames.build_market_curve([MarketReturn(day, Decimal("1.5"), 2) for day in DAYS], days)
    assert curve.days == tuple(days)
    assert curve.equity == (Decimal(10_150), Decimal(10_300))


def test_a_drawdown_is_measured_from_the_peak_so_far() -> None:
    """In percent of the peak; the first peak is the starting cash."""
    curve = frames.build_curve("alice", HISTORY, since=DAYS[0])
    assert [round(value, 2) for value in frames.list_drawdowns(curve)] == [
        Decimal(0),
        Decimal("-4.95"),
        Decimal("-1.98"),
    ]
    deepest = frames.find_deepest(curve)
    assert (round(deepest.percent, 2), deepest.day) == (Decimal("-4.95"), DAYS[1])
    falling = frames.build_curve("bob", build_history(["-100"]), since=date.min)
    assert frames.list_drawdowns(falling) == [Decimal(-1)]


@pytest.mark.parametrize("history", [HISTORY, HISTORY[:1]])
def test_charts_are_valid_and_hold_every_session(history: list[Portfolio]) -> None:
    """The schema accepts each of them; a label for some sessions, in order."""
    first = history[-1].session_date
    curves = [frames.build_curve(name, history, since=first) for name in ("alice", "bob")]
    equity = player_charts.build_equity_chart(frames.build_curves_frame(curves), ["alice", "bob"], [0, 3])
    alt.LayerChart.from_dict(equity)
    assert len(equity["data"]["values"]) == 2 * len(history)
    scores = [PlayerScore(UUID(int=1), row.session_date, Decimal(1), 3) for row in history]
    drawdown = player_charts.build_drawdown_chart(frames.build_drawdown_frame(curves[0]))
    alt.LayerChart.from_dict(drawdown)
    assert len(drawdown["data"]["values"]) == len(history)
    for spec, rows in (
        (player_charts.build_holdings_chart(frames.build_holdings_frame(history)), 2),
        (player_charts.build_rank_chart(frames.build_ranks_frame(scores)), 1),
    ):
        alt.Chart.from_dict(spec)
        assert len(spec["data"]["values"]) == rows * len(history)
        assert spec["encoding"]["x"]["axis"]["values"][-1] == history[0].session_date.isoformat()


def test_a_curve_tells_each_session_under_the_pointer() -> None:
    """A tooltip of a line alone would tell its first session everywhere."""
    curve = frames.build_curve("bob", HISTORY, since=DAYS[0])
    equity = player_charts.build_equity_chart(frames.build_curves_frame([curve]), ["bob"], [0])
    drawdown = player_charts.build_drawdown_chart(frames.build_drawdown_frame(curve))
    for spec, field in ((equity, "value"), (drawdown, "drawdown")):
        points = spec["layer"][-1]
        assert points["mark"]["type"] == "point"
        assert not points["mark"]["filled"]  # or the legend would show points instead of dashes
        assert points["encoding"]["y"]["field"] == field
        assert points["encoding"]["tooltip"]


def test_a_rival_keeps_colour_and_dashes() -> None:
    """Whether or not there is a market in between."""
    curve = frames.build_curve("bob", HISTORY, since=DAYS[0])
    spec = player_charts.build_equity_chart(frames.build_curves_frame([curve]), ["bob"], [3])
    encoding = spec["layer"][1]["encoding"]
    assert encoding["color"]["scale"] == {"domain": ["bob"], "range": [player_charts.RIVAL]}
    assert encoding["strokeDash"]["scale"]["range"] == [[8, 2]]


def test_a_profile_says_what_is_known() -> None:
    """Addresses are not shown in full; preferences one by one."""
    bare = dict(frames.list_profile(build_user()))
    assert bare["Email"] == "not given"
    assert bare["Last active"] == "never"
    assert bare["Preferences"] == "none chosen"
    full = dict(
        frames.list_profile(
            build_user(
                email="alice@example.com",
                last_active=datetime(2013, 3, 1, 9, 5, tzinfo=UTC),
                preferences=frozendict(mail=True, theme="dark"),
            )
        )
    )
    assert full["Email"] == "a…@example.com"
    assert full["Last active"] == "2013-03-01 09:05 UTC"
    assert (full["Preference: mail"], full["Preference: theme"]) == ("yes", "dark")
