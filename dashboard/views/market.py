"""Market: every symbol, one symbol's candles, and what moved them.

Owns the page's composition. Run by Streamlit as a script for every view; each filter is a
query parameter, so each view is a link. Prices, chart and events refresh alone.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import msgspec
import streamlit as st
from streamlit.elements.lib.column_types import ColumnConfig

from core import EnhancedDatabaseService
from core.records import Candle, MarketEvent, Tick
from dashboard import insight_data, live, market_charts, market_frames, parameters, runtime, states
from dashboard.formats import escape_markdown, format_count, format_percent, format_price, is_zero

PRICES_SECONDS = 5
CHART_SECONDS = 30
EVENTS_SECONDS = 30
DEFAULT_RANGE = "1 month"
FEED_LENGTHS = (10, 25, 50, 100)
DEFAULT_LENGTH = 25
ROW_PIXELS = 38
ROWS_WITHOUT_SCROLLING = 12
TABLE_PIXELS = (ROWS_WITHOUT_SCROLLING + 1) * ROW_PIXELS + ROW_PIXELS // 2
"""A longer table ends in half a row, which says that it scrolls."""
CARD_PIXELS = 155
FEW_CANDLES = 5
ALL = "All"
FILTERS = {
    "range": DEFAULT_RANGE,
    "type": ALL,
    "sentiment": ALL,
    "affects": ALL,
    "events": DEFAULT_LENGTH,
    "live": True,
}
"""Each filter's key, but for the symbol's, and what it says unless somebody chose."""
SENTIMENTS = {"Positive": "POSITIVE", "Negative": "NEGATIVE", "Neutral": "NEUTRAL"}


class EventFilter(msgspec.Struct, frozen=True):
    """Which events the feed shows; None lets all pass."""

    type: str | None
    sentiment: str | None
    symbol: str | None
    limit: int


def show_market() -> None:
    """Show the page for what the address asks for."""
    service = runtime.get_service()
    live.show_heading("Market")
    with live.placeholder():
        symbols = [tick.symbol for tick in insight_data.list_prices(service)]
    if not symbols:
        states.show_no_prices()
        return
    unknown = parameters.find_unknown("symbol", symbols)
    live.show_live(partial(show_symbols, service), seconds=PRICES_SECONDS)
    symbol, chosen = choose_view(symbols)
    if unknown:
        parameters.show_unknown("symbol", unknown, instead=symbol)
    live.show_live(partial(show_symbol, service, symbol, chosen), seconds=CHART_SECONDS)
    st.subheader("Market events", anchor=False)
    wanted = choose_events(service, symbols)
    live.show_live(partial(show_events, service, wanted), seconds=EVENTS_SECONDS)
    st.caption("Every time is UTC.")


def show_symbols(service: EnhancedDatabaseService) -> None:
    """Show every symbol with its price; a chosen row becomes the symbol of the chart."""
    ticks = insight_data.list_prices(service)
    st.dataframe(
        market_frames.build_symbols_frame(ticks, insight_data.list_sparklines(service)),
        key="symbols-table",
        hide_index=True,
        height="content" if len(ticks) <= ROWS_WITHOUT_SCROLLING else TABLE_PIXELS,
        row_height=ROW_PIXELS,
        placeholder="-",
        alt="Every symbol with its price, change in 24 hours, course, spread and volatility",
        on_select=partial(choose_row, [tick.symbol for tick in ticks]),
        selection_mode="single-row",
        column_config=describe_columns(market_frames.choose_price_format(ticks)),
    )
    if st.session_state.pop("symbol-chosen", False):
        st.rerun()


def describe_columns(price_format: str) -> dict[str, ColumnConfig]:
    """Return how the columns of the symbols are named and written."""
    number = st.column_config.NumberColumn
    return {
        "symbol": st.column_config.TextColumn("Symbol", width=80, pinned=True),
        "price": number("Price", format=price_format),
        "change": number("24 h change", format="%+,.2f%%"),
        "course": st.column_config.LineChartColumn(
            "Course", help="The last 24 hours with prices, or days where there is one price a day"
        ),
        "spread": number(
            "Spread (bp)", format="%,.1f", help="Ask less bid against the mid price, in 1/100 of a percent"
        ),
        "volatility": number("Volatility", format="%,.1f%%", help="Of returns, annualised"),
        "updated": st.column_config.DatetimeColumn(
            "Last price", format="YYYY-MM-DD HH:mm:ss", timezone="UTC"
        ),
    }


def choose_row(symbols: Sequence[str]) -> None:
    """Make the symbol of the selected row the one of the chart, and of the address."""
    rows = st.session_state["symbols-table"].selection.rows
    if rows and rows[0] < len(symbols):
        parameters.keep_choices(FILTERS)
        st.session_state["symbol"] = symbols[rows[0]]
        # the chart is outside of the table's own refresh
        st.session_state["symbol-chosen"] = True


def choose_view(symbols: Sequence[str]) -> tuple[str, insight_data.Range]:
    """Show the chart's filters and return what they say; an unknown range is named."""
    ranges = {item.name: item for item in insight_data.RANGES}
    unknown = parameters.find_unknown("range", ranges)
    left, right = st.columns([2, 5])
    symbol = left.selectbox("Symbol", symbols, key="symbol", bind="query-params")
    name = right.segmented_control(
        "Range",
        list(ranges),
        default=DEFAULT_RANGE,
        required=True,
        key="range",
        wrap=True,
        bind="query-params",
    )
    if unknown:
        parameters.show_unknown("range", unknown, instead=name)
    return symbol, ranges[name]


def show_symbol(service: EnhancedDatabaseService, symbol: str, chosen: insight_data.Range) -> None:
    """Show one symbol's figures, candles and volume."""
    tick = next((tick for tick in insight_data.list_prices(service) if tick.symbol == symbol), None)
    if tick is None:
        st.info(f"{escape_markdown(symbol)} has no price any more. Choose another symbol above.")
        return
    candles = insight_data.load_candles(service, symbol, chosen)
    if not candles:
        st.info(f"{escape_markdown(symbol)} has no price in this range. Choose a longer one above.")
        return
    marks = insight_data.load_marks(service, symbol, candles, latest=tick.timestamp)
    show_figures(tick, candles, chosen)
    show_candles(symbol, candles, marks, chosen)
    if weeks := service.get_moved_weeks().get(symbol):
        st.caption(market_frames.describe_move(weeks, tick.timestamp))


def show_figures(tick: Tick, candles: Sequence[Candle], chosen: insight_data.Range) -> None:
    """Show the symbol's present price and its range in figures."""
    total = market_frames.summarize_candles(candles)
    spread = market_frames.measure_spread(tick)
    change = tick.change_percent_24h
    with st.grid(6, min_column_width=CARD_PIXELS):
        st.metric(
            f"{escape_markdown(tick.symbol)} now",
            format_price(tick.price),
            delta=None if change is None else f"{format_percent(change)} in 24 h",
            delta_color="normal" if change and not is_zero(change) else "off",
            delta_arrow="auto" if change and not is_zero(change) else "off",
            border=True,
            height="stretch",
        )
        st.metric(
            f"Change in {chosen.name}",
            format_percent(total.change_percent),
            delta=f"from {format_price(total.open)}",
            delta_color="off",
            delta_arrow="off",
            border=True,
            height="stretch",
        )
        show_figure("Low and high", format_price(total.low), remark=f"to {format_price(total.high)}")
        show_figure("Volume", market_frames.format_volume(total.volume), remark=f"in {chosen.name}")
        show_figure(
            "Volatility",
            "-" if tick.volatility is None else f"{tick.volatility:,.1f}%",
            remark="annualised",
        )
        show_figure(
            "Spread",
            "-" if spread is None else f"{spread:,.1f} bp",
            remark="not quoted" if spread is None else "of the mid price",
        )


def show_figure(label: str, value: str, *, remark: str) -> None:
    """Show one figure with a remark that is neither gain nor loss."""
    st.metric(label, value, delta=remark, delta_color="off", delta_arrow="off", border=True, height="stretch")


def show_candles(
    symbol: str, candles: Sequence[Candle], marks: Sequence[MarketEvent], chosen: insight_data.Range
) -> None:
    """Show the candles with their events, the volume below, and both in a sentence."""
    text = market_frames.describe_candles(symbol, candles, width=chosen.candle, marks=len(marks))
    labels = market_charts.choose_labels(candles, chosen.labels)
    st.vega_lite_chart(
        market_charts.build_candle_chart(candles, marks, labels=labels), width="stretch", alt=text
    )
    st.vega_lite_chart(
        market_charts.build_volume_chart(candles, labels=labels),
        width="stretch",
        alt=f"Volume of {symbol} in each of the {len(candles)} candles",
    )
    st.caption(escape_markdown(symbol) + text.removeprefix(symbol))
    if len(candles) < FEW_CANDLES:
        st.caption("There are few prices in this range. A longer one shows more.")


def choose_events(service: EnhancedDatabaseService, symbols: Sequence[str]) -> EventFilter:
    """Show the feed's filters and return what they say; unknown values in the link are named."""
    types = {market_frames.name_key(key): key for key in service.list_market_event_types()}
    parameters.translate_parameter("type", {key: name for name, key in types.items()})
    parameters.translate_parameter("sentiment", {key: name for name, key in SENTIMENTS.items()})
    options = {
        "type": [ALL, *types],
        "sentiment": [ALL, *SENTIMENTS],
        "affects": [ALL, *symbols],
        "events": [str(length) for length in FEED_LENGTHS],
    }
    unknown = {name: parameters.find_unknown(name, values) for name, values in options.items()}
    kind, sentiment, symbol, limit = show_event_filters(options)
    shown = {"type": kind, "sentiment": sentiment, "affects": symbol, "events": str(limit)}
    for name, value in unknown.items():
        if value:
            parameters.show_unknown(f"event filter {name}", value, instead=shown[name])
    return EventFilter(
        type=types.get(kind),
        sentiment=SENTIMENTS.get(sentiment),
        symbol=None if symbol == ALL else symbol,
        limit=limit,
    )


def show_event_filters(options: Mapping[str, Sequence[str]]) -> tuple[str, str, str, int]:
    """Show the feed's filters and return type, sentiment, symbol and length as chosen."""
    first, second, third, fourth = st.columns(4)
    kind = first.selectbox("Type", options["type"], key="type", bind="query-params")
    sentiment = second.selectbox("Sentiment", options["sentiment"], key="sentiment", bind="query-params")
    symbol = third.selectbox("Affected symbol", options["affects"], key="affects", bind="query-params")
    limit = fourth.segmented_control(
        "Events shown",
        FEED_LENGTHS,
        default=DEFAULT_LENGTH,
        required=True,
        key="events",
        wrap=True,
        bind="query-params",
    )
    return kind, sentiment, symbol, limit


def show_events(service: EnhancedDatabaseService, wanted: EventFilter) -> None:
    """Show the newest events that pass the filters."""
    found = insight_data.list_events(
        service, type=wanted.type, sentiment=wanted.sentiment, symbol=wanted.symbol, limit=wanted.limit
    )
    if not found:
        show_no_events(wanted)
        return
    events = found[: wanted.limit]
    st.dataframe(
        market_frames.build_events_frame(events),
        hide_index=True,
        height="content" if len(events) <= ROWS_WITHOUT_SCROLLING else TABLE_PIXELS,
        row_height=ROW_PIXELS,
        placeholder="-",
        alt=f"The newest {len(events)} market events",
        column_config={
            "time": st.column_config.DatetimeColumn("Time", format="YYYY-MM-DD HH:mm", timezone="UTC"),
            "title": "Event",
            "symbols": "Symbols",
            "sentiment": "Sentiment",
            "impact": st.column_config.NumberColumn("Impact", format="%,.2f%%"),
            "type": "Type",
        },
    )
    if len(found) > len(events):
        st.caption(f"The newest {format_count(len(events))}; older ones follow with more events shown.")


def show_no_events(wanted: EventFilter) -> None:
    """Say that no event passes, and what to do about it."""
    if wanted.type or wanted.sentiment or wanted.symbol:
        st.info("No event passes these filters. Set one of them back to “All”.")
    else:
        st.info("No market event yet: a symbol makes one when it moves far within a session.")


show_market()
