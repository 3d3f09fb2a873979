"""Market: the prices of all symbols, the candles of one, and market events.

Run by Streamlit as a script for every view. Prices, chart and events refresh alone.
"""

from collections.abc import Sequence
from functools import partial

import streamlit as st

from core import EnhancedDatabaseService
from core.records import Candle, MarketEvent, Tick
from dashboard import filters, live, runtime, states
from dashboard.elements import CARD_PIXELS, MINUTES, show_metric, show_table
from dashboard.formats import (
    escape_markdown,
    format_count,
    format_key,
    format_percent,
    format_price,
    is_zero,
)
from dashboard.pages.market import charts, data, tables
from dashboard.pages.market.data import EventFilter, Range

PRICES_SECONDS = 5
CHART_SECONDS = 30
EVENTS_SECONDS = 30
DEFAULT_RANGE = "1 month"
EVENT_COUNTS = (10, 25, 50, 100)
DEFAULT_COUNT = 25
FEW_CANDLES = 5
ALL = "All"
FILTERS = {
    "range": DEFAULT_RANGE,
    "type": ALL,
    "sentiment": ALL,
    "affects": ALL,
    "events": DEFAULT_COUNT,
    "live": True,
}
"""The key of each filter, except for the symbol's, and its default."""
SENTIMENTS = {"Positive": "POSITIVE", "Negative": "NEGATIVE", "Neutral": "NEUTRAL"}


def show_market() -> None:
    """Show the page for the values in the address."""
    service = runtime.get_service()
    live.show_heading("Market")
    with live.loading():
        symbols = [tick.symbol for tick in service.get_latest_market_data()]
    if not symbols:
        states.show_empty(
            "no-prices",
            "No prices yet",
            "The database is ready, but no symbol has a price. Import the shipped price history:",
            command="echo-markets import-prices --demo",
            note="`make up` does this at its first start. Then reload this page.",
        )
        return
    live.show_live(partial(_show_symbols, service), seconds=PRICES_SECONDS)
    symbol, selected = _show_filters(symbols)
    live.show_live(partial(_show_symbol, service, symbol, selected), seconds=CHART_SECONDS)
    st.subheader("Market events", anchor=False)
    with filters.fold():
        wanted = _show_event_filters(service, symbols)
    live.show_live(partial(_show_events, service, wanted), seconds=EVENTS_SECONDS)
    st.caption("All times are in UTC.")


def _show_symbols(service: EnhancedDatabaseService) -> None:
    ticks = service.get_latest_market_data()
    number = st.column_config.NumberColumn
    show_table(
        tables.build_symbols_table(ticks, data.list_sparklines(service)),
        {
            "symbol": st.column_config.TextColumn("Symbol", width=80, pinned=True),
            **tables.build_price_columns(ticks),
            "spread": number(
                "Spread (bp)", format="%,.1f", help="Ask minus bid, in 1/100 % of the mid price"
            ),
            "volatility": number("Volatility", format="%,.1f%%", help="Of returns, annualised"),
            "updated": st.column_config.DatetimeColumn(
                "Last price", format="YYYY-MM-DD HH:mm:ss", timezone="UTC"
            ),
        },
        alt="All symbols with price, change in 24 hours, last prices, spread and volatility",
        key="symbols-table",
        placeholder="-",
        on_select=partial(_select_row, [tick.symbol for tick in ticks]),
        selection_mode="single-row",
    )
    if st.session_state.pop("symbol-selected", False):
        st.rerun()


def _select_row(symbols: Sequence[str]) -> None:
    """Put the symbol of the selected row into the filter, and with it into the address."""
    rows = st.session_state["symbols-table"].selection.rows
    if rows and rows[0] < len(symbols):
        filters.keep_in_address(FILTERS)
        st.session_state["symbol"] = symbols[rows[0]]
        # the chart is not part of the table's fragment
        st.session_state["symbol-selected"] = True


def _show_filters(symbols: Sequence[str]) -> tuple[str, Range]:
    ranges = {item.name: item for item in data.RANGES}
    left, right = st.columns([2, 5])
    with left:
        symbol = filters.select_option("Symbol", symbols, key="symbol", noun="symbol")
    with right:
        name = filters.select_segment("Range", list(ranges), default=DEFAULT_RANGE, key="range", noun="range")
    return symbol, ranges[name]


def _show_symbol(service: EnhancedDatabaseService, symbol: str, selected: Range) -> None:
    ticks = service.get_latest_market_data()
    tick = next((tick for tick in ticks if tick.symbol == symbol), None)
    if tick is None:
        st.info(f"{escape_markdown(symbol)} has no price any more. Choose another symbol above.")
        return
    candles = data.load_candles(service, symbol, selected)
    if not candles:
        st.info(f"{escape_markdown(symbol)} has no price in this range. Choose a longer range above.")
        return
    events = data.list_marked_events(service, symbol, candles, latest=tick.timestamp)
    _show_prices(tick, candles, selected)
    _show_candles(symbol, candles, events, selected)
    if weeks := service.get_moved_weeks().get(symbol):
        st.caption(tables.describe_moved_weeks(weeks, tick.timestamp))


def _show_prices(tick: Tick, candles: Sequence[Candle], selected: Range) -> None:
    total = tables.summarize_candles(candles)
    spread, change = tables.measure_spread(tick), tick.change_percent_24h
    with st.grid(6, min_column_width=CARD_PIXELS):
        show_metric(
            f"{escape_markdown(tick.symbol)} now",
            format_price(tick.price),
            None if change is None else f"{format_percent(change)} in 24 h",
            is_change=bool(change) and not is_zero(change or 0),
        )
        percent = format_percent(total.change_percent)
        show_metric(f"Change in {selected.name}", percent, f"from {format_price(total.open)}")
        show_metric("Low and high", format_price(total.low), f"to {format_price(total.high)}")
        show_metric("Volume", tables.format_volume(total.volume), f"in {selected.name}")
        volatility = "-" if tick.volatility is None else f"{tick.volatility:,.1f}%"
        show_metric("Volatility", volatility, "annualised")
        if spread is None:
            show_metric("Spread", "-", "not quoted")
        else:
            show_metric("Spread", f"{spread:,.1f} bp", "of the mid price")


def _show_candles(
    symbol: str, candles: Sequence[Candle], events: Sequence[MarketEvent], selected: Range
) -> None:
    text = tables.describe_candles(symbol, candles, width=selected.candle, events=len(events))
    labels = charts.choose_time_format(candles, selected.labels)
    st.vega_lite_chart(charts.build_candle_chart(candles, events, labels=labels), width="stretch", alt=text)
    st.vega_lite_chart(
        charts.build_volume_chart(candles, labels=labels),
        width="stretch",
        alt=f"Volume of {symbol} in each of the {len(candles)} candles",
    )
    st.caption(escape_markdown(symbol) + text.removeprefix(symbol))
    if len(candles) < FEW_CANDLES:
        st.caption("There are few prices in this range. A longer range shows more.")


def _show_event_filters(service: EnhancedDatabaseService, symbols: Sequence[str]) -> EventFilter:
    types = {format_key(key): key for key in service.list_market_event_types()}
    filters.translate_parameter("type", {key: name for name, key in types.items()})
    filters.translate_parameter("sentiment", {key: name for name, key in SENTIMENTS.items()})
    first, second, third, fourth = st.columns(4)
    with first:
        kind = filters.select_option("Type", [ALL, *types], key="type", noun="event type")
    with second:
        sentiment = filters.select_option("Sentiment", [ALL, *SENTIMENTS], key="sentiment", noun="sentiment")
    with third:
        symbol = filters.select_option("Affected symbol", [ALL, *symbols], key="affects", noun="symbol")
    with fourth:
        limit = filters.select_segment(
            "Events shown", EVENT_COUNTS, default=DEFAULT_COUNT, key="events", noun="number of events"
        )
    return EventFilter(
        type=types.get(kind),
        sentiment=SENTIMENTS.get(sentiment),
        symbol=None if symbol == ALL else symbol,
        limit=limit,
    )


def _show_events(service: EnhancedDatabaseService, wanted: EventFilter) -> None:
    found = data.list_events(service, wanted)
    if not found:
        if wanted.type or wanted.sentiment or wanted.symbol:
            st.info("No event matches these filters. Set one of them back to “All”.")
        else:
            st.info("No market event yet. An event is created when a symbol moves far within a session.")
        return
    events = found[: wanted.limit]
    show_table(
        tables.build_events_table(events),
        {
            "time": st.column_config.DatetimeColumn("Time", **MINUTES),
            "title": "Event",
            "symbols": "Symbols",
            "sentiment": "Sentiment",
            "impact": st.column_config.NumberColumn("Impact", format="%,.2f%%"),
            "type": "Type",
        },
        alt=f"The newest {len(events)} market events",
        placeholder="-",
    )
    if len(found) > len(events):
        st.caption(f"The newest {format_count(len(events))} events. Show more events to see older ones.")


show_market()
