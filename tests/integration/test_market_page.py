"""The Market page in each state, run by Streamlit against a real database."""

from datetime import timedelta
from decimal import Decimal
from urllib.parse import parse_qs, urlsplit

import pytest
from streamlit.testing.v1 import AppTest

from core import EnhancedDatabaseService
from core.errors import DatabaseUnavailable, PoolTimeout, QueryTimeout
from core.records import Tick
from dashboard import runtime
from dashboard.formats import build_symbol_link, escape_markdown, format_percent, format_price
from tests.conftest import Execute
from tests.integration.pages import MARKET, find_price, open_page, read_metrics, read_text
from tests.market import LAST, open_market

pytestmark = pytest.mark.usefixtures("released_pages")


@pytest.fixture
def market(service: EnhancedDatabaseService, execute: Execute) -> EnhancedDatabaseService:
    """Return a service with prices of ten days and an event on each of the last three, used by the pages."""
    open_market(service)
    for age, symbol in enumerate(("AAPL", "FB", "IBM")):
        execute(
            "UPDATE market_events SET created_at = %s WHERE affected_symbols = %s",
            (LAST - timedelta(days=age), [symbol]),
        )
    runtime.set_service(service)
    return service


def read_events(page: AppTest) -> list[str]:
    """Return the titles in the table of events."""
    return list(page.dataframe[1].value["title"])


def test_the_page_shows_prices_candles_and_events(market: EnhancedDatabaseService) -> None:
    """The page shows all prices, the first symbol's figures and chart text, and events, newest first."""
    page = open_page(MARKET)
    assert not page.exception
    assert list(page.dataframe[0].value["symbol"]) == ["AAPL", "FB", "IBM"]
    assert [len(trend) for trend in page.dataframe[0].value["trend"]] == [10, 10, 10]
    figures = read_metrics(page)
    assert find_price(page, "AAPL") == "$60.00"
    assert figures["Low and high"] == "$49.00"
    assert figures["Volume"] == "10.0 M"
    text = read_text(page)
    assert "10 candles of 2 hours: from $50.00 to $60.00 (+20.00%)" in text
    assert "1 event marked" in text
    assert read_events(page) == ["AAPL rose 6.1%", "FB fell 5.3%", "IBM earned much"]


def test_a_link_chooses_symbol_range_and_events(market: EnhancedDatabaseService) -> None:
    """The URL sets symbol, range and event filters.

    The filter of event types may be a label or the stored value, such as `PRICE_MOVE`.
    """
    page = open_page(
        MARKET, symbol="IBM", range="10 years", type="PRICE_MOVE", sentiment="Negative", events="10"
    )
    assert not page.exception
    assert not page.warning
    figures = read_metrics(page)
    assert find_price(page, "IBM") == "$200.00"
    assert figures["Volatility"] == "-"
    assert "of 2 weeks" in read_text(page)
    assert read_events(page) == ["FB fell 5.3%"]
    assert page.selectbox(key="type").value == "Price move"


@pytest.mark.parametrize(
    "symbol", ["$SPX", "^GSPC", "BRK_A", "BTC/USDT", "NYSE:LMT", "M&M", "CAD=X", "0700.HK"]
)
def test_symbols_of_all_markets_have_a_page(market: EnhancedDatabaseService, symbol: str) -> None:
    """A link selects a symbol with special characters, and the page shows these as plain text."""
    market.insert_market_tick(symbol, Decimal(7), timestamp=LAST)
    address = parse_qs(urlsplit(build_symbol_link(symbol)).query)
    assert address == {"symbol": [symbol]}
    page = open_page(MARKET, symbol=address["symbol"][0])
    assert not page.exception
    assert page.selectbox(key="symbol").value == symbol
    assert find_price(page, escape_markdown(symbol)) == "$7.00"
    assert f"{escape_markdown(symbol)} from 2 Feb 2013 00:00 to 1 Mar 2013 21:00" in read_text(page)


def test_the_page_shows_the_moved_weeks_of_a_symbol(market: EnhancedDatabaseService) -> None:
    """The page shows by how many weeks the selected symbol's history was moved, if it was moved."""
    market.update_moved_weeks({"AAPL": 715})
    assert "real trading days, moved by 715 weeks: 1 Mar 2013 stands for" in read_text(open_page(MARKET))
    assert "moved by" not in read_text(open_page(MARKET, symbol="IBM"))


def test_choosing_another_symbol_changes_the_chart(market: EnhancedDatabaseService) -> None:
    """Selecting another symbol on the page shows the price of that symbol."""
    page = open_page(MARKET)
    page.selectbox(key="symbol").select("FB").run()
    assert find_price(page, "FB") == "$20.00"


def test_the_first_symbol_stays_in_the_url(market: EnhancedDatabaseService) -> None:
    """Even the first symbol stays in the URL, because another symbol may be the first one tomorrow."""
    page = open_page(MARKET, symbol="AAPL")
    assert page.query_params["symbol"] == "AAPL"
    # Streamlit removes a widget's default from the URL, so the widget must have no default
    assert not page.selectbox(key="symbol").proto.HasField("default")


def test_table_and_cards_show_the_same_price(
    market: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A price that is inserted between two reads is in the table and in the cards, or in neither."""
    read = market.get_latest_market_data

    def read_and_write() -> tuple[Tick, ...]:
        found = read()
        market.insert_market_tick("AAPL", found[0].price + 1)
        return found

    monkeypatch.setattr(market, "get_latest_market_data", read_and_write)
    page = open_page(MARKET)
    table = page.dataframe[0].value.set_index("symbol")
    assert find_price(page, "AAPL") == format_price(Decimal(str(table["price"]["AAPL"])))
    [change] = [card.delta for card in page.metric if card.label.startswith("AAPL at ")]
    assert change == f"{format_percent(Decimal(str(table['change']['AAPL'])))} in 24 h"


def test_unknown_parameters_are_named_and_replaced(market: EnhancedDatabaseService) -> None:
    """The page names an unknown symbol, range or filter and shows the default in its place."""
    page = open_page(MARKET, symbol="ZZZ", range="1 hour", type="Luck", affects="YYY", events="7")
    shown = " ".join(warning.value for warning in page.warning)
    for value in ("ZZZ", "1 hour", "Luck", "YYY", "“7”"):
        assert value in shown
    assert find_price(page, "AAPL") == "$60.00"
    assert len(read_events(page)) == 3


def test_filters_without_matches_show_a_message(market: EnhancedDatabaseService) -> None:
    """If no event matches the filters, the page says so."""
    page = open_page(MARKET, sentiment="Neutral")
    assert "No event matches these filters" in read_text(page)


def test_a_limited_list_of_events_says_so(market: EnhancedDatabaseService) -> None:
    """If there are more events than the limit, the page says that it shows only the newest."""
    for number in range(10):
        market.create_market_event(type="NEWS", title=f"News {number}")
    page = open_page(MARKET, events="10")
    assert len(read_events(page)) == 10
    assert "The newest 10 events. Show more events" in read_text(page)


def test_a_range_is_calendar_time(market: EnhancedDatabaseService) -> None:
    """A month has only prices of that month; its change is from the last price before it, however old."""
    market.insert_market_tick("AAPL", Decimal(66), timestamp=LAST + timedelta(days=4000), volume=7)
    page = open_page(MARKET)
    text = read_text(page)
    assert "AAPL from 13 Jan 2024 00:00 to 12 Feb 2024 21:00, its last price" in text
    assert "1 candle of 2 hours: from $60.00 to $66.00 (+10.00%), highest $66.00" in text
    assert read_metrics(page)["Volume"] == "7"


def test_one_day_of_daily_prices_has_one_candle(market: EnhancedDatabaseService) -> None:
    """The range "1 day" of daily prices has one candle, and its change equals the change in 24 hours."""
    page = open_page(MARKET, range="1 day")
    figures = read_metrics(page)
    assert figures["Volume"] == "1.0 M"
    assert figures["Change in 1 day"] == "+1.69%"
    assert [card.delta for card in page.metric if card.label.startswith("AAPL at ")] == ["+1.69% in 24 h"]
    assert "AAPL from 28 Feb 2013 21:00 to 1 Mar 2013 21:00, its last price, in 1 candle" in read_text(page)


def test_changes_follow_from_the_stored_prices(market: EnhancedDatabaseService) -> None:
    """The stored change of a tick is shown only if its symbol has no price of 24 hours before."""
    market.insert_market_tick("NEW", Decimal(5), timestamp=LAST, change_percent_24h=Decimal("2.5"))
    market.insert_market_tick("OLD", Decimal(5), timestamp=LAST - timedelta(hours=23))
    market.insert_market_tick("OLD", Decimal(6), timestamp=LAST)
    table = open_page(MARKET).dataframe[0].value.set_index("symbol")["change"]
    assert table.drop("OLD").to_dict() == {"AAPL": 1.69, "FB": 5.26, "IBM": 0.5, "NEW": 2.5}
    assert table.isna()["OLD"]


def test_the_url_selects_an_event(market: EnhancedDatabaseService) -> None:
    """The page shows the effect of the event in the URL, or of the newest event if the URL names none."""
    page = open_page(MARKET)
    assert "**AAPL rose 6\\.1%**, 1 Mar 2013 21:00" in read_text(page)
    events = market.list_market_events(3)
    page.query_params["event"] = str(events[1].id).upper()
    market.create_market_event(type="NEWS", title="A rumour")
    page.run()
    assert read_events(page)[0] == "A rumour"
    assert "**FB fell 5\\.3%**" in read_text(page)
    assert list(page.dataframe[2].value["when"]) == ["1 day before", "1 day after"]
    assert "There is no event" not in read_text(page)
    market.delete_market_event(events[1].id)
    text = read_text(page.run())
    assert "**A rumour**" in text
    assert f"There is no event “{escape_markdown(str(events[1].id).upper())}”" in text
    assert "There is no event “newest”" in read_text(open_page(MARKET, event="newest"))


def test_a_few_candles_suggest_a_longer_range(market: EnhancedDatabaseService) -> None:
    """If the range has one candle only, the page suggests a longer range."""
    market.delete_market_ticks("AAPL")
    market.insert_market_tick("AAPL", Decimal(66), timestamp=LAST)
    page = open_page(MARKET)
    assert "1 candle of 2 hours" in read_text(page)
    assert "A longer range shows more" in read_text(page)


def test_pausing_stops_the_refresh(market: EnhancedDatabaseService) -> None:
    """With live updates off, each of the three sections shows "paused" and no refresh interval."""
    page = open_page(MARKET)
    assert "refreshes every 5 s" in read_text(page)
    page.toggle(key="live").set_value(False).run()
    text = read_text(page)
    assert text.count("paused") == 3
    assert "refreshes every" not in text


def test_refresh_reads_again(market: EnhancedDatabaseService) -> None:
    """The Refresh button shows a price that was inserted while live updates were off."""
    page = open_page(MARKET, live="false")
    market.insert_market_tick("AAPL", market.get_latest_market_data(["AAPL"])[0].price + 5)
    page.button(key="refresh").click().run()
    assert find_price(page, "AAPL") == "$65.00"


def test_without_prices_the_page_names_the_import_command(service: EnhancedDatabaseService) -> None:
    """Without any price the page shows the command that imports prices."""
    runtime.set_service(service)
    text = read_text(open_page(MARKET))
    assert "No prices yet" in text
    assert "echo-markets import-prices" in text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DatabaseUnavailable("it is gone"), "The database cannot be reached."),
        (PoolTimeout("no connection became free"), "all its database connections were in use"),
        (QueryTimeout("a statement ran too long"), "Choose a smaller view."),
        (ZeroDivisionError("a secret cause"), "Something went wrong here."),
    ],
)
def test_an_error_of_the_chart_leaves_other_sections(
    market: EnhancedDatabaseService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    text: str,
) -> None:
    """If the chart fails, a message with the error id of the log replaces it; all tables stay."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(market, "get_price_history", fail)
    page = open_page(MARKET)
    assert not page.exception
    [warning] = page.warning
    assert text in warning.value
    assert "secret" not in warning.value
    assert caplog.messages[-1].rpartition(" ")[2] in warning.value
    assert len(page.dataframe) == 3
