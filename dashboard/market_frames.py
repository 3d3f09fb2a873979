"""Market records turned into tables and sentences.

Owns the shape of the market's tables and what is computed for display; pure functions of
their arguments.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from urllib.parse import quote

import msgspec
import pandas as pd

from core.records import Candle, MarketEvent, Sparkline, Tick
from dashboard.formats import count_price_places, format_count, format_percent, format_price

BASIS_POINTS = 10_000


class CandleSummary(msgspec.Struct, frozen=True):
    """The candles of a range in figures; the change is from the first open to the last close."""

    open: Decimal
    close: Decimal
    high: Decimal
    low: Decimal
    volume: int
    change_percent: Decimal


def measure_spread(tick: Tick) -> Decimal | None:
    """Return the spread in basis points of the middle, None when one side is not quoted."""
    if tick.bid is None or tick.ask is None:
        return None
    return (tick.ask - tick.bid) / ((tick.ask + tick.bid) / 2) * BASIS_POINTS


def build_symbols_frame(ticks: Sequence[Tick], sparklines: Sequence[Sparkline]) -> pd.DataFrame:
    """Return one row per symbol: price, change, spread, volatility, course, time of the price."""
    courses = {line.symbol: [float(price) for price in line.prices] for line in sparklines}
    return pd.DataFrame(
        {
            "symbol": [tick.symbol for tick in ticks],
            "price": [float(tick.price) for tick in ticks],
            "change": [_round(tick.change_percent_24h) for tick in ticks],
            "course": [courses.get(tick.symbol, []) for tick in ticks],
            "spread": [_float(measure_spread(tick)) for tick in ticks],
            "volatility": [_float(tick.volatility) for tick in ticks],
            "updated": [tick.timestamp for tick in ticks],
        }
    )


def choose_price_format(ticks: Sequence[Tick]) -> str:
    """Return the form of a column of prices, with the decimals that the smallest one needs."""
    return f"$%,.{count_price_places(tick.price for tick in ticks)}f"


def build_symbol_link(symbol: str) -> str:
    """Return the address of a symbol's candles, relative to any page."""
    return f"market?symbol={quote(symbol, safe='')}"


def build_movers_frame(ticks: Sequence[Tick], sparklines: Sequence[Sparkline]) -> pd.DataFrame:
    """Return the symbols (links) by how far they moved in 24 hours, whatever the direction."""
    frame = build_symbols_frame(ticks, sparklines)[["symbol", "price", "change", "course"]]
    order = frame["change"].astype(float).abs().sort_values(ascending=False, kind="stable").index
    frame["symbol"] = [build_symbol_link(symbol) for symbol in frame["symbol"]]
    return frame.loc[order].reset_index(drop=True)


def build_events_frame(events: Sequence[MarketEvent]) -> pd.DataFrame:
    """Return one row per event, in the order given."""
    return pd.DataFrame(
        {
            "time": [event.created_at for event in events],
            "title": [event.title for event in events],
            "symbols": [", ".join(event.affected_symbols) for event in events],
            "sentiment": [name_key(event.sentiment) for event in events],
            "impact": [_float(event.impact_magnitude) for event in events],
            "type": [name_key(event.type) for event in events],
        }
    )


def name_key(key: str) -> str:
    """Return a key of the database as people read it: `PRICE_MOVE` is Price move."""
    return key.replace("_", " ").strip().capitalize() or key


def summarize_candles(candles: Sequence[Candle]) -> CandleSummary:
    """Return the figures of at least one candle."""
    first, last = candles[0].open, candles[-1].close
    return CandleSummary(
        open=first,
        close=last,
        high=max(candle.high for candle in candles),
        low=min(candle.low for candle in candles),
        volume=sum(candle.volume for candle in candles),
        change_percent=(last - first) / first * 100,
    )


def describe_candles(symbol: str, candles: Sequence[Candle], *, width: str, marks: int) -> str:
    """Return in a sentence what a chart of at least one candle shows."""
    total = summarize_candles(candles)
    events = f"{format_count(marks)} event{'' if marks == 1 else 's'} marked"
    count = f"{format_count(len(candles))} candle{'' if len(candles) == 1 else 's'}"
    return (
        f"{symbol} from {format_time(candles[0].bucket)} to {format_time(candles[-1].bucket)} in "
        f"{count} of {width}: from {format_price(total.open)} to "
        f"{format_price(total.close)} ({format_percent(total.change_percent)}), at most "
        f"{format_price(total.high)}, at least {format_price(total.low)}; {events}."
    )


def format_volume(volume: int) -> str:
    """Write a number of shares shortly: `379.7 M`; a small one in full."""
    for size, name in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if volume >= size:
            return f"{volume / size:,.1f} {name}"
    return format_count(volume)


def format_time(moment: datetime) -> str:
    """Write a time to the minute: `1 Mar 2013 21:00`."""
    return f"{moment.day} {moment:%b %Y %H:%M}"


def _round(value: Decimal | None) -> float | None:
    """Return what is shown of a percentage; a table writes a small loss as -0.00 otherwise."""
    return None if value is None else float(round(value, 2)) + 0.0


def _float(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def describe_move(weeks: int, now: datetime) -> str:
    """Say by how many weeks imported days were moved, with the month that the present one stands for."""
    then = now - timedelta(weeks=weeks)
    return (
        f"Imported days are real trading days, moved by {format_count(weeks)} weeks:"
        f" {now:%B %Y} stands for {then:%B %Y}."
    )
