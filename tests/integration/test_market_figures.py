"""Every figure of the Market page equals one calculated from all rows with pandas, in several scenarios."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from statistics import median
from typing import Any
from uuid import UUID

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from core import EnhancedDatabaseService
from core.errors import InvalidInput
from core.records import EventEffect
from dashboard import runtime
from dashboard.formats import format_percent, format_price
from tests.conftest import Execute
from tests.integration.pages import MARKET, find_price, open_page, read_metrics, read_text
from tests.scenarios import SCENARIOS, read_table, write_scenario
from tests.tick_recount import recount_ticks

pytestmark = pytest.mark.usefixtures("released_pages")

NOW = datetime.now(UTC).replace(microsecond=0)
WINDOWS = (timedelta(minutes=30), timedelta(hours=6), timedelta(days=1), timedelta(days=5))
# The first day of each range as a function of the day of the last price.
RANGES: dict[str, Callable[[Any], Any]] = {
    "1 week": lambda day: day - pd.Timedelta(days=6),
    "1 month": lambda day: day - pd.DateOffset(months=1) + pd.Timedelta(days=1),
    "1 year": lambda day: day - pd.DateOffset(years=1) + pd.Timedelta(days=1),
}


@pytest.fixture(params=SCENARIOS)
def scenario(request: pytest.FixtureRequest, service: EnhancedDatabaseService) -> str:
    """Write the rows of a scenario, and return its name."""
    name: str = request.param
    write_scenario(service, name, NOW)
    runtime.set_service(service)
    return name


def read_times(execute: Execute, table: str, column: str) -> pd.DataFrame:
    """Return all rows of a table with one column converted to UTC timestamps of pandas."""
    frame = read_table(execute, table)
    return frame.assign(**{column: pd.to_datetime(frame[column], utc=True)})


@pytest.mark.usefixtures("scenario")
def test_statistics_equal_those_calculated_from_all_ticks(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """For each symbol `get_price_statistics` returns the values that pandas calculates from all its ticks."""
    statistics = {found.symbol: found for found in service.get_price_statistics()}
    if not statistics:
        assert execute("SELECT count(*) FROM ticks") == [(0,)]
        return
    expected = recount_ticks(execute).groupby("symbol").tail(1)
    assert list(statistics) == list(expected["symbol"])
    for row in expected.itertuples():
        found = statistics[str(row.symbol)]
        for value, wanted in (
            (found.price, row.price),
            (found.change_24h, row.expected_change),
            (found.change_percent_24h, row.expected_percent),
            (found.volatility, row.expected_volatility),
        ):
            assert_close(value, wanted)


def assert_close(value: Any, wanted: Any) -> None:
    """Assert that two values are equal within 0.0001, or that both are missing."""
    if pd.isna(wanted):
        assert value is None
    else:
        assert float(value) == pytest.approx(float(wanted), abs=0.0001)


@pytest.mark.usefixtures("scenario")
def test_event_effects_equal_those_counted_from_all_rows(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """Trades and traders before and after an event, and the sessions around it, equal those of all rows."""
    trades = read_times(execute, "trades", "executed_at").to_dict("records")
    portfolios = read_table(execute, "portfolios").to_dict("records")
    entries = read_table(execute, "leaderboard_entries").to_dict("records")
    events = service.list_market_events(100)
    assert len(events) == execute("SELECT count(*) FROM market_events")[0][0]
    for event in events:
        for width in WINDOWS:
            effect = service.find_event_effect(event.id, width)
            assert effect is not None
            assert effect.event == event
            for part in (effect.before, effect.after):
                assert part.end - part.start == width
                inside = [trade for trade in trades if part.start <= trade["executed_at"] < part.end]
                assert part.trades == len(inside)
                assert part.traders == len({trade["user_id"] for trade in inside})
            assert effect.before.end == effect.after.start == event.created_at
        assert effect is not None
        assert_sessions(effect, trades=trades, portfolios=portfolios, entries=entries)


def assert_sessions(effect: EventEffect, **tables: list[dict[Any, Any]]) -> None:
    """Assert that an effect has the sessions nearest to its event, with figures that equal their rows."""
    day = effect.event.created_at.date()
    held: set[date] = {row["session_date"] for row in tables["portfolios"]}
    nearest = {
        *sorted(found for found in held if found < day)[-1:],
        *(found for found in held if found == day),
        *sorted(found for found in held if found > day)[:1],
    }
    nearest = {found for found in nearest if abs(found - day) <= timedelta(days=7)}
    assert [session.session_date for session in effect.sessions] == sorted(nearest)
    for session in effect.sessions:
        own = {
            name: [row for row in rows if row["session_date"] == session.session_date]
            for name, rows in tables.items()
        }
        scores = [row["score"] for row in own["entries"] if row["category"] == "daily_returns"]
        assert session.players == len(own["portfolios"])
        assert session.trades == len(own["trades"])
        assert session.traders == len({row["user_id"] for row in own["trades"]})
        assert (session.median_return is None) == (not scores)
        if scores:  # the median is rounded to two decimals
            assert abs((session.median_return or 0) - median(scores)) <= Decimal("0.005")


def test_a_deleted_event_has_no_effect(service: EnhancedDatabaseService) -> None:
    """`find_event_effect` returns None for a deleted event, although its effect was cached."""
    assert service.find_event_effect(UUID(int=1)) is None
    event = service.create_market_event(type="NEWS", title="A rumour")
    effect = service.find_event_effect(event.id)
    assert effect is not None
    assert (effect.before.trades, effect.after.traders, effect.sessions) == (0, 0, ())
    service.delete_market_event(event.id)
    assert service.find_event_effect(event.id) is None
    for wrong in (timedelta(0), timedelta(days=32), "1h"):
        with pytest.raises(InvalidInput):
            service.find_event_effect(event.id, wrong)  # type: ignore[arg-type]  # on purpose


def test_the_page_shows_figures_that_equal_the_rows(scenario: str, execute: Execute) -> None:
    """Cards of each range, tables of symbols and events, and the newest effect equal figures of all rows."""
    ticks = read_times(execute, "ticks", "timestamp")
    if ticks.empty:
        assert "No prices yet" in read_text(open_page(MARKET))
        return
    for symbol, rows in ticks.sort_values("timestamp").groupby("symbol"):
        for name, begin in RANGES.items() if symbol == "AAPL" else list(RANGES.items())[:1]:
            page = open_page(MARKET, symbol=str(symbol), range=name)
            assert not page.exception
            last = rows.iloc[-1]
            assert_cards(page, rows, begin(last["timestamp"].normalize()), name=name)
        day = last["timestamp"] - pd.Timedelta(hours=24)
        page = open_page(MARKET, symbol=str(symbol), range="1 day")
        assert_cards(page, rows, day + pd.Timedelta(microseconds=1), name="1 day")
    assert_symbols(page, recount_ticks(execute).groupby("symbol").tail(1))
    assert_events(page, execute)
    assert scenario


def assert_cards(page: AppTest, rows: pd.DataFrame, start: pd.Timestamp, *, name: str) -> None:
    """Assert that a symbol's cards equal the figures from `start` to its last price."""
    inside, earlier = rows[rows["timestamp"] >= start], rows[rows["timestamp"] < start]
    base = (inside if earlier.empty else earlier.tail(1))["price"].iloc[0]
    figures = read_metrics(page)
    assert figures[f"Change in {name}"] == format_percent((inside["price"].iloc[-1] / base - 1) * 100)
    assert figures["Low and high"] == format_price(inside["price"].min())
    assert figures["Volume"] == f"{inside['volume'].sum():,}"
    assert find_price(page, rows["symbol"].iloc[0]) == format_price(inside["price"].iloc[-1])


def assert_symbols(page: AppTest, expected: pd.DataFrame) -> None:
    """Assert that the table of symbols equals the expected rows, rounded, and is empty for missing values."""
    shown = page.dataframe[0].value.reset_index(drop=True)
    expected = expected.reset_index(drop=True)
    assert list(shown["symbol"]) == list(expected["symbol"])
    assert (shown["price"] == expected["price"]).all()
    for column, wanted, tolerance in (
        ("change", "expected_percent", 0.0051),
        ("volatility", "expected_volatility", 0.0001),
    ):
        assert (shown[column].isna() == expected[wanted].isna()).all()
        distance = (shown[column].astype(float) - expected[wanted]).abs().dropna()
        assert (distance <= tolerance).all()


def assert_events(page: AppTest, execute: Execute) -> None:
    """Assert that the events and the trades a day before and after the newest event equal the rows."""
    events = read_times(execute, "market_events", "created_at").sort_values("created_at", ascending=False)
    shown = page.dataframe[1].value
    assert list(shown["title"]) == list(events["title"])[:25]
    falls = shown["title"].str.contains("fell")
    assert (shown["impact"][falls] < 0).all()
    assert (shown["impact"][~falls] >= 0).all()
    effect = page.dataframe[2].value
    trades = read_times(execute, "trades", "executed_at")["executed_at"]
    newest = events["created_at"].iloc[0]
    distance = (trades - newest).dt.total_seconds() / 86_400
    assert list(effect["trades"][:2]) == [
        ((distance >= -1) & (distance < 0)).sum(),
        ((distance >= 0) & (distance < 1)).sum(),
    ]
    is_so_far = list(effect["when"].str.endswith("so far"))
    # the page was opened between NOW, the time of this module's import, and the current time
    ends = newest + timedelta(days=1)
    assert not is_so_far[0]
    assert is_so_far[1] in {ends > NOW, ends > datetime.now(UTC)}
    assert sum(is_so_far[2:]) == (newest.date() == NOW.date())
