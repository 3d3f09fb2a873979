"""The script of the Market page: the prices of all symbols, the candles of one symbol, and market events.

Prices, charts and events refresh by themselves.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core import EnhancedDatabaseService
from core.records import EventEffect, MarketEvent, Sparkline, Tick
from core.service.argument_checks import check_symbol, list_accepted
from dashboard import filters, live, runtime, states
from dashboard.elements import (
    CARD_PIXELS,
    MINUTES,
    ChangeColumn,
    build_count_column,
    build_day_column,
    is_phone,
    show_metric,
    show_table,
)
from dashboard.formats import (
    escape_markdown,
    format_count,
    format_key,
    format_minute,
    format_percent,
    format_price,
    format_quantity,
    is_zero,
)
from dashboard.pages.market import charts, data, tables
from dashboard.pages.market.data import EventFilter, Range, SymbolView

PRICES_SECONDS = 5
CHART_SECONDS = 30
EVENTS_SECONDS = 30
DEFAULT_RANGE = "1 month"
EVENT_COUNTS = (10, 25, 50, 100)
DEFAULT_COUNT = 25
FEW_CANDLES = 5
PHONE_TIME_PIXELS, PHONE_TITLE_PIXELS, PHONE_FIGURE_PIXELS = 138, 184, 62
"""Widths of columns on a phone: the time and the title of an event, which fit side by side, and a count."""
ALL = "All"
WINDOWS = {"30 minutes": timedelta(minutes=30), "6 hours": timedelta(hours=6), "1 day": timedelta(days=1)}
"""Length of the time before and after an event in which trades are counted."""
DEFAULT_WINDOW = "1 day"
FILTERS = {
    "range": DEFAULT_RANGE,
    "type": ALL,
    "sentiment": ALL,
    "affects": ALL,
    "events": DEFAULT_COUNT,
    "window": DEFAULT_WINDOW,
}
"""The default of each filter by its key. The symbol has no default: it is always in the address."""
VOLATILITY_HELP = (
    "Standard deviation of the last 20 daily returns (logarithms), annualised with 252 days. A daily return "
    "compares the last price of a UTC day with the last price of the day before that has prices. The current "
    "day counts with its newest price."
)
SPREAD_HELP = "Ask minus bid of the last price, in basis points (1/100 %) of the mid price."
AGE = "Up to 30 seconds old."
CHOSEN_EVENT = "event"

Cards = tuple[DeltaGenerator, DeltaGenerator, DeltaGenerator]
"""Containers of three metric cards; a live part fills them again at each refresh."""

SENTIMENTS = {"Positive": "POSITIVE", "Negative": "NEGATIVE", "Neutral": "NEUTRAL"}


def show_market() -> None:
    """Show the Market page for the filters in the address."""
    service = runtime.get_service()
    live.show_heading("Market")
    with live.loading():
        symbols = live.read("market-symbols", partial(_list_symbols, service))
    if not symbols:
        states.show_empty(
            "no-prices",
            "No prices yet",
            "The database is ready, but no symbol has a price. Import the shipped price history:",
            command="echo-markets import-prices --demo",
            note="`make up` does this at its first start. Then reload this page.",
        )
        return
    table = st.container()
    symbol, selected = _show_filters(symbols)
    with st.grid(6, min_column_width=CARD_PIXELS):
        price, change, extremes, volume, volatility, spread = (st.empty() for _ in range(6))
    # this live part fills the table and three of the cards with values of one read, so that their prices
    # agree
    with table:
        live.show_live(
            partial(_show_prices, service, symbol, (price, volatility, spread)), seconds=PRICES_SECONDS
        )
    live.show_live(
        partial(_show_symbol, service, symbol, selected, (change, extremes, volume)), seconds=CHART_SECONDS
    )
    st.header("Market events", anchor=False)
    with filters.collapse_filters():
        wanted, window = _show_event_filters(service, symbols)
    live.show_live(partial(_show_events, service, wanted, window), seconds=EVENTS_SECONDS)
    st.caption("All times are in UTC.")


def _list_symbols(service: EnhancedDatabaseService) -> list[str]:
    """Return the stored symbols, without names that the service does not accept as an argument.

    Another program can have stored such names.
    """
    return list_accepted((tick.symbol for tick in service.get_latest_market_data()), check_symbol)


def _show_prices(service: EnhancedDatabaseService, symbol: str, cards: Cards) -> None:
    def show(found: tuple[Sequence[Tick], Sequence[Sparkline]]) -> None:
        ticks, sparklines = found
        _show_symbols(ticks, sparklines)
        chosen = next((tick for tick in ticks if tick.symbol == symbol), None)
        if chosen is not None:
            _show_present(chosen, cards)

    live.show_section(
        "market-prices",
        load=lambda: (data.list_ticks(service), data.list_sparklines(service)),
        show=show,
    )


def _show_symbols(ticks: Sequence[Tick], sparklines: Sequence[Sparkline]) -> None:
    number = st.column_config.NumberColumn
    show_table(
        tables.build_symbols_table(ticks, sparklines),
        {
            "symbol": st.column_config.TextColumn("Symbol", width=80, pinned=True),
            **tables.build_price_columns(ticks),
            "spread": number("Spread (bp)", format="%,.1f", help=SPREAD_HELP),
            "volatility": number("Volatility", format="%,.1f%%", help=VOLATILITY_HELP),
            "updated": st.column_config.DatetimeColumn(
                "Time of price", format="YYYY-MM-DD HH:mm:ss", timezone="UTC"
            ),
        },
        alt="All symbols with price, change in 24 hours, last prices, spread and volatility",
        on_phone=("symbol", "price", "change"),
        on_tablet=("symbol", "price", "change", "trend", "spread", "volatility"),
        key="symbols-table",
        on_select=partial(_select_row, [tick.symbol for tick in ticks]),
        selection_mode="single-row",
    )
    if st.session_state.pop("symbol-selected", False):
        st.rerun()


def _select_row(symbols: Sequence[str]) -> None:
    """Put the symbol of the selected table row into the filter `symbol`, and so into the address."""
    rows = st.session_state["symbols-table"].selection.rows
    accepted = list_accepted((symbols[row] for row in rows if row < len(symbols)), check_symbol)
    if accepted:
        filters.write_to_address(FILTERS)
        st.session_state["symbol"] = accepted[0]
        # The chart is outside the live part of the table. This flag makes the whole page run again.
        st.session_state["symbol-selected"] = True


def _show_filters(symbols: Sequence[str]) -> tuple[str, Range]:
    ranges = {item.name: item for item in data.RANGES}
    left, right = st.columns([2, 5])
    with left:
        symbol = filters.select_option("Symbol", symbols, key="symbol", noun="symbol", is_kept=True)
    with right:
        name = filters.select_segment("Range", list(ranges), default=DEFAULT_RANGE, key="range", noun="range")
    return symbol, ranges[name]


def _show_present(tick: Tick, cards: Cards) -> None:
    """Show the cards of the last price, the volatility and the spread, with the same values as the table."""
    price, volatility, spread = cards
    basis_points, change = tables.measure_spread(tick), tick.change_percent_24h
    with price:
        show_metric(
            f"{escape_markdown(tick.symbol)} at {tables.describe_time(tick.timestamp, datetime.now(UTC))}",
            format_price(tick.price),
            None if change is None else f"{format_percent(change)} in 24 h",
            is_change=bool(change) and not is_zero(change or 0),
            help="Last price, as in the table above, and its change from the price 24 hours earlier.",
        )
    with volatility:
        value = "-" if tick.volatility is None else f"{tick.volatility:,.1f}%"
        show_metric("Volatility", value, "annualised", help=VOLATILITY_HELP)
    with spread:
        show_metric(
            "Spread",
            "-" if basis_points is None else f"{basis_points:,.1f} bp",
            "not quoted" if basis_points is None else "of the mid price",
            help=f"{SPREAD_HELP} Mid price: half of bid plus ask.",
        )


def _show_symbol(service: EnhancedDatabaseService, symbol: str, selected: Range, cards: Cards) -> None:
    live.show_section(
        ("market-symbol", symbol, selected.name),
        load=partial(data.load_symbol, service, symbol, selected),
        show=lambda view: _show_view(symbol, view, selected, cards),
    )


def _show_view(symbol: str, view: SymbolView | None, selected: Range, cards: Cards) -> None:
    if view is None or not view.candles:
        st.info(f"{escape_markdown(symbol)} has no price any more. Choose another symbol above.")
        return
    _show_range(view, selected, cards)
    _show_candles(view, selected)
    if view.moved_weeks:
        st.caption(tables.describe_moved_weeks(view.moved_weeks, view.tick.timestamp))


def _show_range(view: SymbolView, selected: Range, cards: Cards) -> None:
    """Show the cards of the selected range: the change, the lowest and highest price, and the volume."""
    change, extremes, volume = cards
    total = tables.summarize_candles(view.candles, before=view.before)
    with change:
        show_metric(
            f"Change in {selected.name}",
            format_percent(total.change_percent),
            f"from {format_price(total.open)}",
            help="Change from the last price before the range to the last price of the chart. If there is no "
            f"price before the range, change from its first price. {AGE}",
        )
    with extremes:
        show_metric(
            "Low and high",
            format_price(total.low),
            f"to {format_price(total.high)}",
            help=f"Lowest and highest price in the last {selected.name}. {AGE}",
        )
    with volume:
        show_metric(
            "Volume",
            tables.format_volume(total.volume),
            f"in {selected.name}",
            help=f"Shares traded on the market in the last {selected.name}: sum of all ticks. {AGE}",
        )


def _show_candles(view: SymbolView, selected: Range) -> None:
    text, symbol = tables.describe_view(view, selected), view.tick.symbol
    st.vega_lite_chart(
        charts.build_candle_chart(view.candles, view.events, window=view.window, chosen=selected),
        width="stretch",
        alt=text,
    )
    st.vega_lite_chart(
        charts.build_volume_chart(view.candles, window=view.window, chosen=selected),
        width="stretch",
        alt=f"Volume of {symbol} in each of the {len(view.candles)} candles",
    )
    st.caption(escape_markdown(symbol) + text.removeprefix(symbol))
    if len(view.candles) < FEW_CANDLES:
        st.caption("There are few prices in this range. A longer range shows more.")


def _show_event_filters(service: EnhancedDatabaseService, symbols: Sequence[str]) -> tuple[EventFilter, str]:
    found = live.read("market-event-types", service.list_market_event_types)
    types = {format_key(key): key for key in found}
    filters.translate_parameter("type", {key: name for name, key in types.items()})
    filters.translate_parameter("sentiment", {key: name for name, key in SENTIMENTS.items()})
    first, second, third, fourth = st.columns(4)
    with first:
        kind = filters.select_option(
            "Type", [ALL, *types], key="type", noun="event type", describe=_name_all("types")
        )
    with second:
        sentiment = filters.select_option(
            "Sentiment",
            [ALL, *SENTIMENTS],
            key="sentiment",
            noun="sentiment",
            describe=_name_all("sentiments"),
        )
    with third:
        symbol = filters.select_option(
            "Affected symbol", [ALL, *symbols], key="affects", noun="symbol", describe=_name_all("symbols")
        )
    with fourth:
        limit = filters.select_segment(
            "Events shown",
            EVENT_COUNTS,
            default=DEFAULT_COUNT,
            key="events",
            noun="number of events",
            describe=lambda count: f"{count} events",
        )
    window = filters.select_segment(
        "Trades counted before and after an event",
        list(WINDOWS),
        default=DEFAULT_WINDOW,
        key="window",
        noun="time",
    )
    wanted = EventFilter(
        type=types.get(kind),
        sentiment=SENTIMENTS.get(sentiment),
        symbol=None if symbol == ALL else symbol,
        limit=limit,
    )
    return wanted, window


def _name_all(things: str) -> Callable[[str], str]:
    """Return a function that formats a filter's value: `All` becomes `All types`, others stay unchanged."""
    return lambda value: f"{ALL} {things}" if value == ALL else value


def _show_events(service: EnhancedDatabaseService, wanted: EventFilter, window: str) -> None:
    live.show_section(
        ("market-events", wanted),
        load=partial(data.list_events, service, wanted),
        show=lambda found: _show_event_list(found, wanted),
    )
    chosen = filters.find_parameter(CHOSEN_EVENT)
    live.show_section(
        ("market-effect", wanted, chosen, window),
        load=partial(data.find_effect, service, wanted, chosen, WINDOWS[window]),
        show=lambda effect: _show_effect(effect, chosen, window),
    )


def _show_event_list(found: Sequence[MarketEvent], wanted: EventFilter) -> None:
    if not found:
        if wanted.type or wanted.sentiment or wanted.symbol:
            st.info("No event matches these filters. Set one of them back to “All”.")
        else:
            st.info(
                "No market event yet. An event is created when a price is more than 5 % away from "
                "the previous close."
            )
        return
    events = found[: wanted.limit]
    show_table(
        tables.build_events_table(events),
        {
            "time": st.column_config.DatetimeColumn(
                "Time", **MINUTES, width=PHONE_TIME_PIXELS if is_phone() else None
            ),
            "impact": ChangeColumn("Impact", unit="%", help="Move of the price in percent"),
            "title": st.column_config.TextColumn("Event", width=PHONE_TITLE_PIXELS if is_phone() else None),
            "symbols": "Symbols",
            "sentiment": "Sentiment",
            "type": "Type",
        },
        alt=f"{format_quantity(len(events), 'market event')}, the newest first",
        on_phone=("time", "title"),
        key="events-table",
        on_select=partial(_choose_event, [event.id for event in events]),
        selection_mode="single-row",
    )
    if len(found) > len(events):
        st.caption(f"The newest {format_count(len(events))} events. Show more events to see older ones.")


def _choose_event(ids: Sequence[UUID]) -> None:
    """Put the id of the selected event into the address: a new event changes the row numbers, but no id."""
    rows = st.session_state["events-table"].selection.rows
    filters.write_to_address(FILTERS)
    if rows and rows[0] < len(ids):
        st.query_params[CHOSEN_EVENT] = str(ids[rows[0]])
    elif CHOSEN_EVENT in st.query_params:
        del st.query_params[CHOSEN_EVENT]


def _show_effect(effect: EventEffect | None, chosen: str | None, window: str) -> None:
    if effect is None:
        return
    st.header("Before and after the event", anchor=False)
    if chosen is not None and chosen.lower() != str(effect.event.id):
        filters.show_unknown("event", chosen, instead="the newest one")
    now = datetime.now(UTC)
    title, when = escape_markdown(effect.event.title), format_minute(effect.event.created_at)
    st.markdown(f"**{title}**, {when}. In {window} on either side: {tables.describe_effect(effect, now=now)}")
    width = PHONE_FIGURE_PIXELS if is_phone() else None
    show_table(
        tables.build_effect_table(effect, window=window, now=now),
        {
            "when": "When",
            "traders": build_count_column("Traded", width=width, help="Players with at least one trade"),
            "trades": build_count_column("Trades", width=width),
            "median": ChangeColumn(
                "Median",
                unit="%",
                help="Median return of the session: half of the players did better",
            ),
            "players": build_count_column("Played", help="Players with a portfolio of the session"),
            "session": build_day_column("Session"),
        },
        alt=f"Trades, players and median return before and after {effect.event.title}",
        on_phone=("when", "traders", "trades", "median"),
    )
    st.caption(
        "This compares two times; it does not show that the event is the cause. To see another event, select "
        "it in the table above; without a selection, this is the newest event. The median return is that of "
        "a whole session, because a portfolio has one value per session."
    )


show_market()
