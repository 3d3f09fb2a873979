"""The tables of prices and market events, and the candles in words. Pure functions."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pandas as pd
import streamlit as st

from core.records import (
    EVENT_DAYS,
    Candle,
    EventEffect,
    MarketEvent,
    Sparkline,
    Tick,
    TradingSession,
    TradingWindow,
)
from dashboard.data import is_open_session
from dashboard.elements import ChangeColumn
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
from dashboard.pages.market.data import Range, SymbolView

BASIS_POINTS = 10_000


class CandleSummary(msgspec.Struct, frozen=True):
    """A summary of several candles. `change_percent` is the change from `open` to `close`.

    `open` is the last price before the candles or, if there is none, the open of the first candle.
    """

    open: Decimal
    close: Decimal
    high: Decimal
    low: Decimal
    volume: int
    change_percent: Decimal


def measure_spread(tick: Tick) -> Decimal | None:
    """Return the spread in basis points of the mid price, or None if bid or ask is missing."""
    if tick.bid is None or tick.ask is None:
        return None
    return (tick.ask - tick.bid) / ((tick.ask + tick.bid) / 2) * BASIS_POINTS


def build_symbols_table(ticks: Sequence[Tick], sparklines: Sequence[Sparkline]) -> pd.DataFrame:
    """Return one row per symbol, in the given order."""
    trends = {line.symbol: [float(price) for price in line.prices] for line in sparklines}
    return pd.DataFrame(
        {
            "symbol": [tick.symbol for tick in ticks],
            "price": [float(tick.price) for tick in ticks],
            "change": [_round(tick.change_percent_24h) for tick in ticks],
            "trend": [trends.get(tick.symbol, []) for tick in ticks],
            "spread": pd.Series([measure_spread(tick) for tick in ticks], dtype=float),
            "volatility": pd.Series([tick.volatility for tick in ticks], dtype=float),
            "updated": [tick.timestamp for tick in ticks],
        }
    )


def build_price_columns(ticks: Sequence[Tick]) -> dict[str, Any]:
    """Return the columns of price, change and trend. All prices have the decimals of the smallest price."""
    places = count_price_places(tick.price for tick in ticks)
    return {
        "price": st.column_config.NumberColumn("Price", format=f"$%,.{places}f"),
        "change": ChangeColumn(
            "24 h change",
            unit="%",
            help="Change from the price 24 hours earlier to the last price; - if there is no earlier price",
        ),
        "trend": st.column_config.LineChartColumn(
            "Last 24 prices",
            help="The last price of each hour, for 24 hours with prices. Imported days have one price",
        ),
    }


def build_movers_table(ticks: Sequence[Tick], sparklines: Sequence[Sparkline]) -> pd.DataFrame:
    """Return one row per symbol, with a link. The largest 24-hour change, up or down, comes first."""
    frame = build_symbols_table(ticks, sparklines)[["symbol", "price", "change", "trend"]]
    order = frame["change"].astype(float).abs().sort_values(ascending=False, kind="stable").index
    frame["symbol"] = [build_symbol_link(symbol) for symbol in frame["symbol"]]
    return frame.loc[order].reset_index(drop=True)


def find_impact(event: MarketEvent) -> Decimal | None:
    """Return the impact of an event in percent. A fall is negative, even if it is stored without a sign."""
    impact = event.impact_magnitude
    return -impact if impact and impact > 0 and event.sentiment == "NEGATIVE" else impact


def build_events_table(events: Sequence[MarketEvent]) -> pd.DataFrame:
    """Return one row per event, in the given order."""
    return pd.DataFrame(
        {
            "time": [event.created_at for event in events],
            "impact": [_round(find_impact(event)) for event in events],
            "title": [event.title for event in events],
            "symbols": [", ".join(event.affected_symbols) for event in events],
            "sentiment": [format_key(event.sentiment) for event in events],
            "type": [format_key(event.type) for event in events],
        }
    )


def build_effect_table(effect: EventEffect, *, window: str, now: datetime) -> pd.DataFrame:
    """Return a table: the trades before and after an event, and the sessions around it.

    `window` is the length of the time before and after the event, in words. A row whose time has not ended at
    `now` is marked "so far".
    """
    rows: list[dict[str, Any]] = [
        {
            "when": f"{window} {side}{_name_open(part, now)}",
            "traders": part.traders,
            "trades": part.trades,
        }
        for side, part in (("before", effect.before), ("after", effect.after))
    ]
    rows.extend(
        {
            "when": _name_session(effect, session, now),
            "session": session.session_date,
            "traders": session.traders,
            "trades": session.trades,
            "players": session.players,
            "median": _round(session.median_return),
        }
        for session in effect.sessions
    )
    return pd.DataFrame(rows, columns=["when", "traders", "trades", "median", "players", "session"])


def describe_effect(effect: EventEffect, *, now: datetime) -> str:
    """Return sentences about an event: trades before and after it, and returns of the sessions around it."""
    before, after = effect.before, effect.after
    text = (
        f"{format_quantity(before.trades, 'trade')} of {format_quantity(before.traders, 'player')} before, "
        f"{format_quantity(after.trades, 'trade')} of {format_quantity(after.traders, 'player')} "
        f"after{_name_open(after, now)}."
    )
    if not effect.sessions:
        return f"{text} No session was held within {EVENT_DAYS} days."
    played = "; ".join(_describe_session(effect, session, now) for session in effect.sessions)
    return f"{text} Players and their median return: {played}."


def _describe_session(effect: EventEffect, session: TradingSession, now: datetime) -> str:
    median = ""
    if session.median_return is not None:
        median = f", {format_percent(session.median_return)}"
    return f"{format_count(session.players)}{median} in the {_name_session(effect, session, now).lower()}"


def _name_session(effect: EventEffect, session: TradingSession, now: datetime) -> str:
    day = effect.event.created_at.astimezone(UTC).date()
    place = "before" if session.session_date < day else "of the event"
    place = "after" if session.session_date > day else place
    return f"Session {place}{', so far' if is_open_session(session.session_date, now) else ''}"


def _name_open(part: TradingWindow, now: datetime) -> str:
    return ", so far" if part.end > now else ""


def summarize_candles(candles: Sequence[Candle], *, before: Decimal | None = None) -> CandleSummary:
    """Return the summary of candles (at least one). `before` is the last price before the first candle."""
    first, last = candles[0].open if before is None else before, candles[-1].close
    return CandleSummary(
        open=first,
        close=last,
        high=max(candle.high for candle in candles),
        low=min(candle.low for candle in candles),
        volume=sum(candle.volume for candle in candles),
        change_percent=(last - first) / first * 100,
    )


def describe_view(view: SymbolView, chosen: Range) -> str:
    """Return a sentence that describes the chart of candles (at least one)."""
    total = summarize_candles(view.candles, before=view.before)
    count = format_quantity(len(view.candles), "candle")
    return (
        f"{view.tick.symbol} from {format_minute(view.window.start)} to "
        f"{format_minute(view.tick.timestamp)}, its last price, in {count} of {chosen.candle}: "
        f"from {format_price(total.open)} to {format_price(total.close)} "
        f"({format_percent(total.change_percent)}), highest "
        f"{format_price(total.high)}, lowest {format_price(total.low)}; "
        f"{format_quantity(len(view.events), 'event')} marked."
    )


def describe_time(moment: datetime, now: datetime) -> str:
    """Write the time of a price: `14:05:03` if it is today, otherwise `21:00, 1 Mar 2013`."""
    day = moment.astimezone(UTC).date()
    if day == now.astimezone(UTC).date():
        return f"{moment.astimezone(UTC):%H:%M:%S}"
    return f"{moment.astimezone(UTC):%H:%M}, {day.day} {day:%b %Y}"


def format_volume(volume: int) -> str:
    """Write a number of shares: `379.7 M`, or all digits below a million: `950,000`."""
    for size, name in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if volume >= size:
            return f"{volume / size:,.1f} {name}"
    return format_count(volume)


def _round(value: Decimal | None) -> float | None:
    """Round a percentage to two decimals, half to even: the browser would round 0.125 up.

    Adding 0 avoids -0.0.
    """
    return None if value is None else float(round(value, 2)) + 0.0


def describe_moved_weeks(weeks: int, now: datetime) -> str:
    """Return a sentence that says by how many weeks the dates of imported days were moved to a later time.

    As an example, the sentence names the real trading day that is shown as the day of `now`.
    """
    then = now - timedelta(weeks=weeks)
    return (
        f"Imported days are real trading days, moved by {format_quantity(weeks, 'week')}:"
        f" {now.day} {now:%b %Y} stands for {then.day} {then:%b %Y}."
    )
