"""The portfolios page: curves, summaries, charts and texts, without a server."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import altair as alt
import msgspec
import pytest
from frozendict import frozendict

from core.records import (
    MarketReturn,
    PlayerGains,
    PlayerScore,
    Portfolio,
    Position,
    Quest,
    SymbolGain,
    User,
)
from core.service.market import MAX_MARKET_DAYS
from core.simulation.behaviour import draw_traits
from dashboard.charts import GAIN, LOSS, Spec
from dashboard.pages.portfolios import charts, tables
from dashboard.pages.portfolios.data import SPANS_READ, split_days
from dashboard.pages.portfolios.tables import build_curve
from tests.game import build_portfolio

NOW = datetime(2013, 3, 1, 21, tzinfo=UTC)
TODAY = date(2013, 3, 1)


def build_history(changes: Sequence[str]) -> list[Portfolio]:
    """Return sessions with these changes, newest first."""
    days = (TODAY - timedelta(days=age) for age in range(len(changes)))
    return [
        build_portfolio(UUID(int=1), day, Decimal(change)) for day, change in zip(days, changes, strict=True)
    ]


def build_quest(*, progress: str, target: str, **changes: object) -> Quest:
    """Return an active quest."""
    values = {
        "id": UUID(int=1),
        "user_id": UUID(int=2),
        "type": "TRADES",
        "title": "Make 20 trades",
        "description": None,
        "target_value": Decimal(target),
        "current_progress": Decimal(progress),
        "status": "ACTIVE",
        "reward_type": None,
        "reward_value": None,
        "created_at": NOW,
        "expires_at": None,
    }
    return Quest(**(values | changes))  # type: ignore[arg-type]  # one value of each field's type


def test_a_history_keeps_its_order_and_adds_what_is_invested() -> None:
    """One row per session; invested is value less cash."""
    frame = tables.build_sessions_table(tuple(build_history(["100", "-50"])), TODAY).to_pydict()
    assert list(frame["session"]) == [TODAY, TODAY - timedelta(days=1)]
    assert list(frame["value"]) == [10_100.0, 9_950.0]
    assert list(frame["change_percent"]) == [1.0, -0.5]
    assert list(frame["invested"]) == [7_600.0, 7_450.0]


def test_cash_and_invested_add_up() -> None:
    """Cash plus the invested amount is the value."""
    [portfolio] = build_history(["100"])
    assert portfolio.current_cash + tables.measure_invested(portfolio) == portfolio.total_value


def test_a_record_counts_gains_as_won() -> None:
    """A session without gain or loss is not won."""
    record = tables.summarize_history(build_history(["100", "0", "-40"]))
    assert record is not None
    assert tables.summarize_history([]) is None
    assert (record.sessions, record.won) == (3, 1)
    assert (record.best_change, record.worst_change) == (Decimal(100), Decimal(-40))
    assert record.average_change == Decimal(20)


@pytest.mark.parametrize(
    ("progress", "target", "percent", "text"),
    [
        ("13", "20", 65, "13 of 20"),
        ("10212.40", "10500", 97, "10,212.40 of 10,500"),
        ("10499", "10500", 99, "10,499 of 10,500"),
        ("25", "20", 100, "25 of 20"),
        ("-5", "20", 0, "-5 of 20"),
        ("0", "0", 100, "0 of 0"),
    ],
)
def test_a_quest_card_has_a_bar_between_empty_and_full(
    progress: str, target: str, percent: int, text: str
) -> None:
    """Progress beyond the target, or below zero, stays on the bar; only a reached target fills it."""
    card = tables.build_quest_card(build_quest(progress=progress, target=target), NOW)
    assert card.percent == percent
    assert card.progress == text


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("cash", Decimal(250), "$250.00 cash"),
        ("bonus_points", Decimal(1500), "1,500 bonus points"),
        ("badge", None, "Badge"),
        (None, None, ""),
        (None, Decimal(5), "5"),
    ],
)
def test_a_quest_card_names_the_reward(kind: str | None, value: Decimal | None, text: str) -> None:
    """Only a reward in cash has a dollar sign."""
    quest = build_quest(progress="1", target="2", reward_type=kind, reward_value=value)
    assert tables.build_quest_card(quest, NOW).reward == text


# -- curves and charts ---------------------------------------------------------------------


def list_rows(spec: Spec) -> list[Any]:
    """Return the rows of a chart whose data is inside of its layer."""
    rows: list[Any] = spec["layer"][0]["data"]["values"]
    return rows


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
    """The curve begins with the starting cash at the first session of the window, oldest first."""
    curve = tables.build_curve("alice", HISTORY, since=DAYS[0])
    assert curve.days == tuple(DAYS)
    assert curve.equity == (Decimal(10_100), Decimal(9_600), Decimal(9_900))
    assert tables.build_curve("alice", HISTORY, since=DAYS[2]).equity == (Decimal(10_300),)


def test_the_market_adds_up_its_returns() -> None:
    """The market begins with the same starting cash in each window."""
    days = [DAYS[0], DAYS[2]]
    curve = tables.build_market_curve([MarketReturn(day, Decimal("1.5"), 2) for day in days])
    assert curve.days == tuple(days)
    assert curve.equity == (Decimal(10_150), Decimal(10_300))
    assert curve.gain == 300


def test_a_drawdown_is_measured_from_the_peak_so_far() -> None:
    """It is in percent of the highest value so far, which begins with the starting cash."""
    curve = tables.build_curve("alice", HISTORY, since=DAYS[0])
    assert [round(drawdown.percent, 2) for drawdown in tables.list_drawdowns(curve)] == [
        Decimal(0),
        Decimal("-4.95"),
        Decimal("-1.98"),
    ]
    deepest = tables.find_deepest(curve)
    assert (round(deepest.percent, 2), deepest.day) == (Decimal("-4.95"), DAYS[1])
    falling = tables.build_curve("bob", build_history(["-100"]), since=date.min)
    assert [drawdown.percent for drawdown in tables.list_drawdowns(falling)] == [Decimal(-1)]


@pytest.mark.parametrize("history", [HISTORY, HISTORY[:1]])
def test_charts_are_valid_and_hold_every_session(history: list[Portfolio]) -> None:
    """The schema accepts each chart; some sessions have a label, in order."""
    first = history[-1].session_date
    axis = charts.Days(first, TODAY, tuple(row.session_date for row in reversed(history)))
    curves = [tables.build_curve(name, history, since=first) for name in ("alice", "bob")]
    equity = charts.build_equity_chart(tuple(curves), (0, 3), axis)
    alt.LayerChart.from_dict(equity)
    assert len(list_rows(equity)) == 2 * len(history)
    scores = tuple(PlayerScore(UUID(int=1), row.session_date, Decimal(1), 3) for row in history)
    drawdown = charts.build_drawdown_chart(curves[0], axis)
    alt.LayerChart.from_dict(drawdown)
    assert len(list_rows(drawdown)) == len(history)
    for spec, rows in (
        (charts.build_holdings_chart(tuple(history), axis), 2),
        (charts.build_rank_chart(scores, axis), 1),
        (charts.build_changes_chart(tuple(history), axis), 1),
    ):
        alt.LayerChart.from_dict(spec)
        assert len(list_rows(spec)) == rows * len(history)


def build_axis(days: Sequence[date], *, today: date = TODAY) -> charts.Days:
    """Return the days of a chart of these sessions held."""
    return charts.Days(days[0], today, tuple(days))


def test_days_are_a_calendar_with_the_year() -> None:
    """The calendar goes from the first day to the end of today in UTC, also over days without a session."""
    encoding = build_axis([date(2013, 2, 1)]).encode()
    assert encoding["scale"]["domain"] == [
        {"year": 2013, "month": 2, "date": 1, "utc": True},
        {"year": 2013, "month": 3, "date": 2, "utc": True},
    ]
    assert (encoding["type"], encoding["scale"]["type"]) == ("temporal", "utc")
    assert "%Y" in encoding["axis"]["labelExpr"]


def test_a_missed_session_breaks_the_lines_and_has_a_mark() -> None:
    """A missed session is not a session of 0 %: it has a grey mark only; today is not missed yet."""
    held = [TODAY - timedelta(days=age) for age in (6, 5, 4, 2, 1, 0)]
    played = (held[1], held[4])
    history = [row for row in build_history([*"123456"]) if row.session_date in played]
    axis, curve = build_axis(held), build_curve("alice", history)
    missed = {day.isoformat() for day in (held[2], held[3])}
    scores = tuple(PlayerScore(UUID(int=1), row.session_date, Decimal(1), 3) for row in reversed(history))
    for spec, field in (
        (charts.build_equity_chart((curve,), (0,), axis), "value"),
        (charts.build_drawdown_chart(curve, axis), "value"),
        (charts.build_rank_chart(scores, axis), "rank"),
    ):
        assert {row["day"] for row in list_rows(spec) if row[field] is None} == missed
        assert len(list_rows(spec)) == 4
    changes = charts.build_changes_chart(tuple(history), axis)
    assert len(list_rows(changes)) == 2
    marks = changes["layer"][0]["layer"][1]["data"]["values"]
    assert [row["day"] for row in marks] == [day.isoformat() for day in (held[0], held[2], held[3])]


def test_an_open_session_is_pale_and_says_so_far() -> None:
    """Finished sessions are not pale."""
    spec = charts.build_changes_chart(tuple(build_history(["100", "-100"])), build_axis(DAYS))
    before, today = list_rows(spec)
    assert (before["opacity"], today["opacity"]) == (1, 0.5)
    assert (before["moved"], today["moved"]) == ("-$100.00 (-1.00%)", "+$100.00 (+1.00%) so far")


def test_a_curve_tells_each_session_under_the_pointer() -> None:
    """With a tooltip on the line alone, the first session would be shown everywhere."""
    curve = tables.build_curve("bob", HISTORY, since=DAYS[0])
    equity = charts.build_equity_chart((curve,), (0,), build_axis(DAYS))
    drawdown = charts.build_drawdown_chart(curve, build_axis(DAYS))
    for spec, field in ((equity, "value"), (drawdown, "value")):
        points = spec["layer"][0]["layer"][-1]
        assert points["mark"]["type"] == "point"
        assert not points["mark"]["filled"]  # or the legend would show points instead of dashes
        assert points["encoding"]["y"]["field"] == field
        assert points["encoding"]["tooltip"]


def test_a_rival_keeps_colour_and_dashes() -> None:
    """They do not depend on whether the market is drawn too."""
    curve = tables.build_curve("bob", HISTORY, since=DAYS[0])
    spec = charts.build_equity_chart((curve,), (3,), build_axis(DAYS))
    encoding = spec["layer"][0]["layer"][2]["encoding"]
    assert encoding["color"]["scale"] == {"domain": ["bob"], "range": [charts.RIVAL]}
    assert encoding["strokeDash"]["scale"]["range"] == [[8, 2]]


def test_a_profile_says_what_is_known() -> None:
    """The e-mail address is shortened, and keys that only programs read are left out."""
    bare = dict(tables.list_profile(build_user()))
    assert bare["Email"] == "not given"
    assert bare["Last seen"] == "never"
    assert set(bare) == {"Username", "Name", "Email", "Joined", "Last seen"}
    lost = build_user(email="(unreadable: ENCRYPTION_KEYS has no key 'k1')")
    assert dict(tables.list_profile(lost))["Email"] == "unreadable"
    marks = {"replay": "100x250@1/e0ab93", "replay_finished": True, "theme": "dark"}
    full = dict(
        tables.list_profile(
            build_user(
                email="alice@example.com",
                last_active=datetime(2013, 3, 1, 9, 5, tzinfo=UTC),
                preferences=frozendict(strategy="cash", **marks),
            )
        )
    )
    assert full["Email"] == "a…@example.com"
    assert full["Last seen"] == "2013-03-01 09:05 UTC"
    assert full["Joined"] == "Tue 1 Jan 2013"
    assert full["Strategy"] == "Cash: buys nothing"
    assert not any(word in repr(full) for word in ("replay", "100x250", "dark"))


@pytest.mark.parametrize("number", range(200))
def test_every_strategy_has_words(number: int) -> None:
    """Every strategy of the simulation has a text, so none is shown as a key."""
    traits = draw_traits(7, [UUID(int=number) for number in range(200)])
    preferences = traits.preferences(number)
    words = tables.describe_strategy(preferences)
    assert words.startswith(("Favourites", "Momentum", "Mean reversion", "Cash"))
    assert "_" not in words
    for key in ("lookback", "symbols", "invested_percent"):
        assert str(preferences.get(key, "")) in words


@pytest.mark.parametrize("strategy", ["own", None, 3, ["momentum"], {}])
def test_an_unknown_strategy_is_left_out(strategy: object) -> None:
    """A client may have stored any text as the strategy."""
    assert tables.describe_strategy({"strategy": strategy, "symbols": 3}) == ""


def test_a_tooltip_has_readable_figures() -> None:
    """The server formats the figures, not the browser."""
    [row] = list_rows(
        charts.build_changes_chart(tuple(build_history(["100"])), build_axis(DAYS, today=date(2099, 1, 1)))
    )
    assert row["session"] == "Fri 1 Mar 2013"
    assert row["money"] == "$10,100.00"
    assert row["moved"] == "+$100.00 (+1.00%)"


def test_green_and_red_mean_gain_and_loss() -> None:
    """Only the sign of the change decides the colour."""
    spec = charts.build_changes_chart(tuple(build_history(["100", "-100"])), build_axis(DAYS))
    colour = spec["layer"][0]["layer"][0]["encoding"]["color"]
    assert colour["condition"] == {"test": "datum.change < 0", "value": LOSS}
    assert colour["value"] == GAIN


# -- charts that are kept ------------------------------------------------------------------

GAINS = ["300", "-500", "100", "20", "30", "40"]


def draw_all(gains: list[str]) -> list[Spec]:
    """Draw the charts of a player with these day changes, newest first."""
    history = tuple(build_history(gains))
    curve = build_curve("alice", history)
    axis = build_axis([row.session_date for row in reversed(history)])
    distribution = charts.build_distribution(history)
    assert distribution is not None
    return [
        charts.build_equity_chart((curve,), (0,), axis),
        charts.build_drawdown_chart(curve, axis),
        charts.build_changes_chart(history, axis),
        charts.build_holdings_chart(history, axis),
        distribution.chart,
    ]


def test_the_same_figures_are_drawn_once() -> None:
    """Two reads return different objects with equal values, and the chart is built once."""
    for first, second in zip(draw_all(GAINS), draw_all(GAINS), strict=True):
        assert first is second


def test_other_figures_are_drawn_anew() -> None:
    """A change of one session builds each chart again."""
    for first, second in zip(draw_all(GAINS), draw_all(["300.01", *GAINS[1:]]), strict=True):
        assert first != second


@pytest.mark.parametrize("number", range(5))
def test_every_chart_is_vega_lite(number: int) -> None:
    """The schema of Vega-Lite accepts it, and no data is at the top level."""
    spec = draw_all(GAINS)[number]
    assert "data" not in spec
    alt.LayerChart.from_dict(spec)


def test_the_table_is_sent_as_it_is() -> None:
    """Its columns have the types that the page's formats expect."""
    table = tables.build_sessions_table(tuple(build_history(GAINS)), TODAY)
    types = {field.name: str(field.type) for field in table.schema}
    assert types.pop("session") == "date32[day]"
    assert types.pop("state") == "string"
    assert set(types.values()) == {"double"}
    assert table.column("change").to_pylist()[:2] == [300.0, -500.0]


# -- gains --------------------------------------------------------------------------------


def build_gains(change: str, **gains: str) -> PlayerGains:
    """Return gains of symbols, unrealised, of one session."""
    zero = Decimal(0)
    symbols = (SymbolGain(name, 1, 1, zero, zero, zero, Decimal(gain), 0) for name, gain in gains.items())
    return PlayerGains(1, Decimal(change), tuple(symbols))


def test_the_table_of_gains_adds_up_to_the_change() -> None:
    """It adds up in cash and in points; the last line is what trades do not explain."""
    window, newest = build_gains("-100.05", AAPL="12.34", FB="-150.01", IBM="0"), build_gains("3", AAPL="1")
    held = (Position(UUID(int=1), TODAY, "FB", Decimal("2.5"), Decimal(10)),)
    table = tables.build_gains_table(window, newest, held).to_pydict()
    assert table["symbol"] == ["AAPL", "IBM", "FB", tables.UNEXPLAINED]
    assert sum(Decimal(str(gain)) for gain in table["gain"]) == Decimal("-100.05")
    assert sum(Decimal(str(round(points, 4))) for points in table["points"]) == Decimal("-1.0005")
    assert table["session"] == [1.0, 0.0, 0.0, 2.0]
    assert table["shares"] == [None, None, 2.5, None]
    assert all(str(gain) != "-0.0" for gain in table["gain"] + table["points"])


def test_the_table_of_gains_has_a_line_without_trades() -> None:
    """The line has the whole change, as unexplained."""
    table = tables.build_gains_table(build_gains("-7"), build_gains("0"), ()).to_pydict()
    assert (table["symbol"], table["gain"], table["session"]) == ([tables.UNEXPLAINED], [-7.0], [0.0])


def test_gains_that_trades_explain_have_no_other_line() -> None:
    """Neither in the table nor in the chart; without a symbol nothing is left."""
    explained = build_gains("2", FB="2")
    assert tables.build_gains_table(explained, explained, ()).to_pydict()["symbol"] == ["FB"]
    assert [row["symbol"] for row in list_rows(charts.build_gains_chart(explained))] == ["FB"]
    nothing = build_gains("0")
    assert tables.build_gains_table(nothing, nothing, ()).num_rows == 0
    session = build_gains("-1", FB="2")
    assert tables.build_gains_table(explained, session, ()).to_pydict()["session"] == [2.0, -3.0]


def test_the_sentence_on_gains_names_its_sessions() -> None:
    """The sum over many sessions is no sum over those that two players have in common."""
    gains = build_gains("10", FB="-5", AAPL="20")
    one = tables.describe_gains(gains).replace("\\", "")
    assert one == "+$10.00 = AAPL +$20.00, FB -$5.00, not explained -$5.00."
    many = msgspec.structs.replace(gains, sessions=55)
    assert tables.describe_gains(many).replace("\\", "") == f"In all 55 sessions played: {one}"


def test_the_chart_of_gains_shows_every_line() -> None:
    """The largest gain is first; the unexplained rest is last and grey."""
    spec = charts.build_gains_chart(build_gains("10", FB="-5", AAPL="20"))
    alt.LayerChart.from_dict(spec)
    assert [(row["symbol"], row["money"], row["points"]) for row in list_rows(spec)] == [
        ("AAPL", "+$20.00", "+0.20 pts"),
        ("FB", "-$5.00", "-0.05 pts"),
        (tables.UNEXPLAINED, "-$5.00", "-0.05 pts"),
    ]


# -- reads --------------------------------------------------------------------------------


def test_days_without_a_long_gap_are_one_span() -> None:
    """Weekends and holidays do not split the history."""
    days = [TODAY, TODAY + timedelta(days=3), TODAY + timedelta(days=20)]
    assert split_days(days) == ((days[0], days[-1]),)


def test_years_without_a_session_part_a_history() -> None:
    """The market between two parts of the history is not read."""
    today = date(2026, 11, 25)
    assert split_days([TODAY, today]) == ((TODAY, TODAY), (today, today))


def test_no_span_is_longer_than_the_service_reads() -> None:
    """One session a week for eleven years needs two calls, which omit no session."""
    days = [TODAY + timedelta(weeks=week) for week in range(574)]
    (first, end), (begin, last) = split_days(days)
    assert (first, last) == (days[0], days[-1])
    assert begin - end == timedelta(weeks=1)
    assert (end - first).days < MAX_MARKET_DAYS


def test_only_the_newest_spans_are_read() -> None:
    """For a player who returns every few months the number of statements is bounded."""
    spans = split_days([TODAY + timedelta(days=90 * visit) for visit in range(40)])
    assert len(spans) == SPANS_READ
    assert spans[-1][1] == TODAY + timedelta(days=90 * 39)


def test_no_session_is_no_span() -> None:
    """Without sessions there is no span, and nothing is read."""
    assert split_days([]) == ()
