"""Curves, tables, charts and texts of the Portfolios page, without a server."""

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
    """Return one session per day change, newest first; the newest is of TODAY."""
    days = (TODAY - timedelta(days=age) for age in range(len(changes)))
    return [
        build_portfolio(UUID(int=1), day, Decimal(change)) for day, change in zip(days, changes, strict=True)
    ]


def build_quest(*, progress: str, target: str, **changes: object) -> Quest:
    """Return an active quest with this progress and target."""
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


def test_the_sessions_table_keeps_order_and_adds_invested() -> None:
    """The table has one row per session, newest first; `invested` is the value minus the cash."""
    frame = tables.build_sessions_table(tuple(build_history(["100", "-50"])), TODAY).to_pydict()
    assert list(frame["session"]) == [TODAY, TODAY - timedelta(days=1)]
    assert list(frame["value"]) == [10_100.0, 9_950.0]
    assert list(frame["change_percent"]) == [1.0, -0.5]
    assert list(frame["invested"]) == [7_600.0, 7_450.0]


def test_cash_and_invested_add_up() -> None:
    """The cash plus the invested amount is the total value."""
    [portfolio] = build_history(["100"])
    assert portfolio.current_cash + tables.measure_invested(portfolio) == portfolio.total_value


def test_a_summary_counts_gains_as_won() -> None:
    """The summary counts a session with a gain as won; a session without gain or loss is not won."""
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
    """The bar is between 0% and 100%, and is full only if the target is reached."""
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
    """The card shows cash with a dollar sign, and any other reward by its kind and amount."""
    quest = build_quest(progress="1", target="2", reward_type=kind, reward_value=value)
    assert tables.build_quest_card(quest, NOW).reward == text


# -- equity curves and charts --------------------------------------------------------------


def list_rows(spec: Spec) -> list[Any]:
    """Return the rows of the first layer, in which these charts keep their data."""
    rows: list[Any] = spec["layer"][0]["data"]["values"]
    return rows


HISTORY = build_history(["300", "-500", "100"])
"""Three sessions, newest first. The equity curve, oldest first, is 10,100, then 9,600, then 9,900."""
DAYS = [row.session_date for row in HISTORY][::-1]


def build_user(**changes: object) -> User:
    """Return a user with these fields changed."""
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
    """The equity curve adds the day changes to the starting cash, from the first day of the window on."""
    curve = tables.build_curve("alice", HISTORY, since=DAYS[0])
    assert curve.days == tuple(DAYS)
    assert curve.equity == (Decimal(10_100), Decimal(9_600), Decimal(9_900))
    assert tables.build_curve("alice", HISTORY, since=DAYS[2]).equity == (Decimal(10_300),)


def test_the_market_adds_up_its_returns() -> None:
    """The market curve adds the returns to the same starting cash."""
    days = [DAYS[0], DAYS[2]]
    curve = tables.build_market_curve([MarketReturn(day, Decimal("1.5"), 2) for day in days])
    assert curve.days == tuple(days)
    assert curve.equity == (Decimal(10_150), Decimal(10_300))
    assert curve.gain == 300


def test_a_drawdown_is_measured_from_the_peak_so_far() -> None:
    """A drawdown is in percent of the highest equity so far, which is at least the starting cash."""
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
    """The schema accepts each chart, and each chart has every session of the history."""
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
    """Return the day axis of a chart, with the days on which sessions were held."""
    return charts.Days(days[0], today, tuple(days))


def test_the_day_axis_is_a_calendar_in_utc() -> None:
    """The axis reaches from the first session to the end of today in UTC, and its labels have the year."""
    encoding = build_axis([date(2013, 2, 1)]).encode()
    assert encoding["scale"]["domain"] == [
        {"year": 2013, "month": 2, "date": 1, "utc": True},
        {"year": 2013, "month": 3, "date": 2, "utc": True},
    ]
    assert (encoding["type"], encoding["scale"]["type"]) == ("temporal", "utc")
    assert "%Y" in encoding["axis"]["labelExpr"]


def test_a_missed_session_breaks_the_lines_and_has_a_mark() -> None:
    """A session that the player missed breaks the lines and has a mark; today is not missed yet."""
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


def test_an_open_session_is_pale_and_marked() -> None:
    """The bar of an open session has half the opacity, and its tooltip has the words `so far`."""
    spec = charts.build_changes_chart(tuple(build_history(["100", "-100"])), build_axis(DAYS))
    before, today = list_rows(spec)
    assert (before["opacity"], today["opacity"]) == (1, 0.5)
    assert (before["moved"], today["moved"]) == ("-$100.00 (-1.00%)", "+$100.00 (+1.00%) so far")


def test_every_point_of_a_curve_has_a_tooltip() -> None:
    """Curves have points with tooltips, because the tooltip of a line always shows the first session."""
    curve = tables.build_curve("bob", HISTORY, since=DAYS[0])
    equity = charts.build_equity_chart((curve,), (0,), build_axis(DAYS))
    drawdown = charts.build_drawdown_chart(curve, build_axis(DAYS))
    for spec, field in ((equity, "value"), (drawdown, "value")):
        points = spec["layer"][0]["layer"][-1]
        assert points["mark"]["type"] == "point"
        assert not points["mark"]["filled"]  # otherwise the legend would show points instead of dashes
        assert points["encoding"]["y"]["field"] == field
        assert points["encoding"]["tooltip"]


def test_a_rival_keeps_colour_and_dashes() -> None:
    """A rival's colour and dashes are the same with and without the market curve."""
    curve = tables.build_curve("bob", HISTORY, since=DAYS[0])
    spec = charts.build_equity_chart((curve,), (3,), build_axis(DAYS))
    encoding = spec["layer"][0]["layer"][2]["encoding"]
    assert encoding["color"]["scale"] == {"domain": ["bob"], "range": [charts.RIVAL]}
    assert encoding["strokeDash"]["scale"]["range"] == [[8, 2]]


def test_a_profile_shows_known_fields_only() -> None:
    """A profile has a shortened e-mail address, and no preferences that only programs use."""
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
def test_every_strategy_has_a_text(number: int) -> None:
    """Every strategy of the simulation is described by a text with its settings, not by its key."""
    traits = draw_traits(7, [UUID(int=number) for number in range(200)])
    preferences = traits.preferences(number)
    words = tables.describe_strategy(preferences)
    assert words.startswith(("Favourites", "Momentum", "Mean reversion", "Cash"))
    assert "_" not in words
    for key in ("lookback", "symbols", "invested_percent"):
        assert str(preferences.get(key, "")) in words


@pytest.mark.parametrize("strategy", ["own", None, 3, ["momentum"], {}])
def test_an_unknown_strategy_is_left_out(strategy: object) -> None:
    """An unknown strategy has no text, because any client can store any value as the strategy."""
    assert tables.describe_strategy({"strategy": strategy, "symbols": 3}) == ""


def test_a_tooltip_has_formatted_numbers() -> None:
    """The server formats the day and the numbers of a tooltip, so the browser shows them unchanged."""
    [row] = list_rows(
        charts.build_changes_chart(tuple(build_history(["100"])), build_axis(DAYS, today=date(2099, 1, 1)))
    )
    assert row["session"] == "Fri 1 Mar 2013"
    assert row["money"] == "$10,100.00"
    assert row["moved"] == "+$100.00 (+1.00%)"


def test_green_and_red_mean_gain_and_loss() -> None:
    """A bar is red for a negative change and green otherwise."""
    spec = charts.build_changes_chart(tuple(build_history(["100", "-100"])), build_axis(DAYS))
    colour = spec["layer"][0]["layer"][0]["encoding"]["color"]
    assert colour["condition"] == {"test": "datum.change < 0", "value": LOSS}
    assert colour["value"] == GAIN


# -- cached charts -------------------------------------------------------------------------

GAINS = ["300", "-500", "100", "20", "30", "40"]


def draw_all(gains: list[str]) -> list[Spec]:
    """Return all charts of a player with these day changes, newest first."""
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


def test_a_chart_of_equal_values_is_built_once() -> None:
    """A second call with equal values returns the cached chart."""
    for first, second in zip(draw_all(GAINS), draw_all(GAINS), strict=True):
        assert first is second


def test_a_chart_of_changed_values_is_built_again() -> None:
    """If the change of one session differs, every chart is different."""
    for first, second in zip(draw_all(GAINS), draw_all(["300.01", *GAINS[1:]]), strict=True):
        assert first != second


@pytest.mark.parametrize("number", range(5))
def test_every_chart_is_vega_lite(number: int) -> None:
    """The Vega-Lite schema accepts every chart, and no chart has data at the top level."""
    spec = draw_all(GAINS)[number]
    assert "data" not in spec
    alt.LayerChart.from_dict(spec)


def test_the_sessions_table_has_typed_columns() -> None:
    """The columns of the sessions table have the types that the page's number formats expect."""
    table = tables.build_sessions_table(tuple(build_history(GAINS)), TODAY)
    types = {field.name: str(field.type) for field in table.schema}
    assert types.pop("session") == "date32[day]"
    assert types.pop("state") == "string"
    assert set(types.values()) == {"double"}
    assert table.column("change").to_pylist()[:2] == [300.0, -500.0]


# -- gains by symbol ----------------------------------------------------------------------


def build_gains(change: str, **gains: str) -> PlayerGains:
    """Return the gains of one session: its change, and the unrealised gain of each symbol."""
    zero = Decimal(0)
    symbols = (SymbolGain(name, 1, 1, zero, zero, zero, Decimal(gain), 0) for name, gain in gains.items())
    return PlayerGains(1, Decimal(change), tuple(symbols))


def test_the_table_of_gains_adds_up_to_the_change() -> None:
    """The gains of the symbols and the unexplained rest add up to the change, in cash and in points."""
    window, newest = build_gains("-100.05", AAPL="12.34", FB="-150.01", IBM="0"), build_gains("3", AAPL="1")
    held = (Position(UUID(int=1), TODAY, "FB", Decimal("2.5"), Decimal(10)),)
    table = tables.build_gains_table(window, newest, held).to_pydict()
    assert table["symbol"] == ["AAPL", "IBM", "FB", tables.UNEXPLAINED]
    assert sum(Decimal(str(gain)) for gain in table["gain"]) == Decimal("-100.05")
    assert sum(Decimal(str(round(points, 4))) for points in table["points"]) == Decimal("-1.0005")
    assert table["session"] == [1.0, 0.0, 0.0, 2.0]
    assert table["shares"] == [None, None, 2.5, None]
    assert all(str(gain) != "-0.0" for gain in table["gain"] + table["points"])


def test_a_change_without_trades_is_unexplained() -> None:
    """Without trades the table has one line, the whole change as unexplained."""
    table = tables.build_gains_table(build_gains("-7"), build_gains("0"), ()).to_pydict()
    assert (table["symbol"], table["gain"], table["session"]) == ([tables.UNEXPLAINED], [-7.0], [0.0])


def test_an_explained_change_has_no_unexplained_line() -> None:
    """If trades explain the whole change, table and chart have no line for an unexplained rest."""
    explained = build_gains("2", FB="2")
    assert tables.build_gains_table(explained, explained, ()).to_pydict()["symbol"] == ["FB"]
    assert [row["symbol"] for row in list_rows(charts.build_gains_chart(explained))] == ["FB"]
    nothing = build_gains("0")
    assert tables.build_gains_table(nothing, nothing, ()).num_rows == 0
    session = build_gains("-1", FB="2")
    assert tables.build_gains_table(explained, session, ()).to_pydict()["session"] == [2.0, -3.0]


def test_the_text_on_gains_names_the_number_of_sessions() -> None:
    """A text on several sessions names their number, because a rival may not have played all of them."""
    gains = build_gains("10", FB="-5", AAPL="20")
    one = tables.describe_gains(gains).replace("\\", "")
    assert one == "+$10.00 = AAPL +$20.00, FB -$5.00, not explained -$5.00."
    many = msgspec.structs.replace(gains, sessions=55)
    assert tables.describe_gains(many).replace("\\", "") == f"In all 55 sessions played: {one}"


def test_the_chart_of_gains_has_a_bar_per_line() -> None:
    """The largest gain is the first row of the chart, and the unexplained rest is the last row."""
    spec = charts.build_gains_chart(build_gains("10", FB="-5", AAPL="20"))
    alt.LayerChart.from_dict(spec)
    assert [(row["symbol"], row["money"], row["points"]) for row in list_rows(spec)] == [
        ("AAPL", "+$20.00", "+0.20 pts"),
        ("FB", "-$5.00", "-0.05 pts"),
        (tables.UNEXPLAINED, "-$5.00", "-0.05 pts"),
    ]


# -- spans of days for which market prices are read ---------------------------------------


def test_days_without_a_long_gap_are_one_span() -> None:
    """Gaps of 3 and 17 days, such as weekends and holidays, do not split a span."""
    days = [TODAY, TODAY + timedelta(days=3), TODAY + timedelta(days=20)]
    assert split_days(days) == ((days[0], days[-1]),)


def test_years_without_a_session_split_a_history() -> None:
    """Two sessions with years between them are two spans, so the market between them is not read."""
    today = date(2026, 11, 25)
    assert split_days([TODAY, today]) == ((TODAY, TODAY), (today, today))


def test_no_span_is_longer_than_the_service_reads() -> None:
    """Weekly sessions of eleven years are two spans, because a span has at most MAX_MARKET_DAYS days."""
    days = [TODAY + timedelta(weeks=week) for week in range(574)]
    (first, end), (begin, last) = split_days(days)
    assert (first, last) == (days[0], days[-1])
    assert begin - end == timedelta(weeks=1)
    assert (end - first).days < MAX_MARKET_DAYS


def test_only_the_newest_spans_are_read() -> None:
    """Of forty spans only the newest SPANS_READ are kept, so the number of statements is bounded."""
    spans = split_days([TODAY + timedelta(days=90 * visit) for visit in range(40)])
    assert len(spans) == SPANS_READ
    assert spans[-1][1] == TODAY + timedelta(days=90 * 39)


def test_no_session_is_no_span() -> None:
    """Without sessions there is no span."""
    assert split_days([]) == ()
