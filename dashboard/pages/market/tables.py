"""Tables of prices and events, and candles in words; pure functions."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pandas as pd
import streamlit as st

from core.records import Candle, MarketEvent, Sparkline, Tick
from dashboard.formats import (
    build_symbol_link,
    count_price_places,
    format_count,
    format_key,
    format_minute,
    format_percent,
    format_price,
    format_quantity,
)

BASIS_POINTS = 10_000


class CandleSummary(msgspec.Struct, frozen=True):
    """The sums and extremes of candles; the change is from the first open to the last close."""

    open: Decimal
    close: Decimal
    high: Decimal
    low: Decimal
    volume: int
    change_percent: Decimal


def measure_spread(tick: Tick) -> Decimal | None:
    """Return the spread in basis points of the mid price; None when one side is not quoted."""
    if tick.bid is None or tick.ask is None:
        return None
    return (tick.ask - tick.bid) / ((tick.ask + tick.bid) / 2) * BASIS_POINTS


def build_symbols_table(ticks: Sequence[Tick], sparklines: Sequence[Sparkline]) -> pd.DataFrame:
    """Return one row per symbol, in the order given."""
    trends = {line.symbol: [float(price) for price in line.prices] for line in sparklines}
    return pd.DataFrame(
        {
            "symbol": [tick.symbol for tick in ticks],
            "price": [float(tick.price) for tick in ticks],
            "change": [_round(tick.change_percent_24h) for tick in ticks],
            "trend": [trends.get(tick.symbol, []) for tick in ticks],
            "spread": [_float(measure_spread(tick)) for tick in ticks],
            "volatility": [_float(tick.volatility) for tick in ticks],
            "updated": [tick.timestamp for tick in ticks],
        }
    )


def build_price_columns(ticks: Sequence[Tick]) -> dict[str, Any]:
    """Return the columns of price, change and trend; prices with the decimals that the smallest needs."""
    places = count_price_places(tick.price for tick in ticks)
    return {
        "price": st.column_config.NumberColumn("Price", format=f"$%,.{places}f"),
        "change": st.column_config.NumberColumn("24 h change", format="%+,.2f%%"),
        "trend": st.column_config.LineChartColumn(
            "Last 24 prices", help="One price per hour, or per day where there is only one a day"
        ),
    }


def build_movers_table(ticks: Sequence[Tick], sparklines: Sequence[Sparkline]) -> pd.DataFrame:
    """Return the symbols as links, the largest change in 24 hours first, up or down."""
    frame = build_symbols_table(ticks, sparklines)[["symbol", "price", "change", "trend"]]
    order = frame["change"].astype(float).abs().sort_values(ascending=False, kind="stable").index
    frame["symbol"] = [build_symbol_link(symbol) for symbol in frame["symbol"]]
    return frame.loc[order].reset_index(drop=True)


def build_events_table(events: Sequence[MarketEvent]) -> pd.DataFrame:
    """Return one row per event, in the order given."""
    return pd.DataFrame(
        {
            "time": [event.created_at for event in events],
            "title": [event.title for event in events],
            "symbols": [", ".join(event.affected_symbols) for event in events],
            "sentiment": [format_key(event.sentiment) for event in events],
            "impact": [_float(event.impact_magnitude) for event in events],
            "type": [format_key(event.type) for event in events],
        }
    )


def summarize_candles(candles: Sequence[Candle]) -> CandleSummary:
    """Return the summary of at least one candle."""
    first, last = candles[0].open, candles[-1].close
    return CandleSummary(
        open=first,
        close=last,
        high=max(candle.high for candle in candles),
        low=min(candle.low for candle in candles),
        volume=sum(candle.volume for candle in candles),
        change_percent=(last - first) / first * 100,
    )


def describe_candles(symbol: str, candles: Sequence[Candle], *, width: str, events: int) -> str:
    """Return a sentence with the content of a chart of at least one candle."""
    total = summarize_candles(candles)
    marked = f"{format_quantity(events, 'event')} marked"
    count = format_quantity(len(candles), "candle")
    return (
        f"{symbol} from {format_minute(candles[0].bucket)} to {format_minute(candles[-1].bucket)} in "
        f"{count} of {width}: from {format_price(total.open)} to "
        f"{format_price(total.close)} ({format_percent(total.change_percent)}), at most "
        f"{format_price(total.high)}, at least {format_price(total.low)}; {marked}."
    )


def format_volume(volume: int) -> str:
    """Write a number of shares with a unit: `379.7 M`; below a million in full."""
    for size, name in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if volume >= size:
            return f"{volume / size:,.1f} {name}"
    return format_count(volume)


def _round(value: Decimal | None) -> float | None:
    """Round a percentage as it is shown; otherwise a table shows a small loss as -0.00."""
    return None if value is None else float(round(value, 2)) + 0.0


def _float(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def describe_moved_weeks(weeks: int, now: datetime) -> str:
    """Say by how many weeks imported days were moved, and which month the present one was."""
    then = now - timedelta(weeks=weeks)
    return (
        f"Imported days are real trading days, moved by {format_quantity(weeks, 'week')}:"
        f" {now:%B %Y} stands for {then:%B %Y}."
    )
