"""Reads the values of the Market page from the service: prices, candles, market events and their effects.

Prices, changes and volatilities are at most 30 seconds out of date, and effects of events at most one minute.
Candles and events are read each time.
"""

from calendar import monthrange
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

import msgspec

from core import EnhancedDatabaseService
from core.errors import InvalidInput
from core.records import Candle, EventEffect, MarketEvent, PriceStatistics, Sparkline, Tick

SPARKLINE_POINTS = 24
SPARKLINE_STEP = timedelta(hours=1)
"""Time between two points of a sparkline. Imported prices have only one point per day."""

EVENTS_MARKED = 200
"""Maximum number of events that a chart marks: more marks would hide the candles."""

MOMENT = timedelta(microseconds=1)
DAY = timedelta(days=1)


class Range(msgspec.Struct, frozen=True):
    """A time range that ends at the last price of a symbol, and the width of its candles.

    The range has `days` days or `months` months, up to and including the day of the last price. If both are
    0, the range is the last 24 hours. `bucket` is the width of a candle as an argument of the service, and
    `candle` the same width in words. `labels` are d3 time formats, one for each line of a label on the time
    axis.
    """

    name: str
    bucket: str
    width: timedelta
    candle: str
    labels: tuple[str, ...]
    days: int = 0
    months: int = 0

    @property
    def is_day(self) -> bool:
        """Whether the range is the last 24 hours."""
        return not self.days and not self.months


class Window(msgspec.Struct, frozen=True):
    """The times from `start` (included) to `end` (excluded)."""

    start: datetime
    end: datetime


class SymbolView(msgspec.Struct, frozen=True):
    """A symbol with its candles and events in a window.

    `before` is the last price before the window, or None. The dates of imported prices are `moved_weeks`
    weeks later than the real trading days; it is 0 without imported prices.
    """

    tick: Tick
    window: Window
    candles: tuple[Candle, ...]
    before: Decimal | None
    events: tuple[MarketEvent, ...]
    moved_weeks: int


class EventFilter(msgspec.Struct, frozen=True):
    """Selects the market events to list. A field that is None selects all events."""

    type: str | None
    sentiment: str | None
    symbol: str | None
    limit: int


_DATE = ("%-d %b %Y",)
RANGES = (
    Range("1 day", "5m", timedelta(minutes=5), "5 minutes", ("%H:%M", "%-d %b %Y")),
    Range("1 week", "30m", timedelta(minutes=30), "30 minutes", _DATE, days=7),
    Range("1 month", "2h", timedelta(hours=2), "2 hours", _DATE, months=1),
    Range("3 months", "8h", timedelta(hours=8), "8 hours", _DATE, months=3),
    Range("1 year", "1d", DAY, "1 day", ("%b %Y",), months=12),
    Range("5 years", "1w", timedelta(weeks=1), "1 week", ("%b %Y",), months=60),
    Range("10 years", "2w", timedelta(weeks=2), "2 weeks", ("%Y",), months=120),
)
"""The ranges that a visitor can choose. Each has at most about 370 candles, however many ticks are stored."""


def list_ticks(service: EnhancedDatabaseService) -> tuple[Tick, ...]:
    """Return the newest tick of every symbol, with its change in 24 hours and its volatility.

    Both are computed from the stored prices. The change is measured from a price that is 24 hours old, or up
    to 15 seconds older. If the stored prices do not reach back far enough, the tick keeps the change and the
    volatility that were stored with it.
    """
    known = {found.symbol: found for found in service.get_price_statistics()}
    return tuple(_complete(tick, known.get(tick.symbol)) for tick in service.get_latest_market_data())


def _complete(tick: Tick, found: PriceStatistics | None) -> Tick:
    if found is None:
        return tick
    if found.volatility is not None:
        tick = msgspec.structs.replace(tick, volatility=found.volatility)
    if found.change_24h is not None:
        before = found.price - found.change_24h
        change = tick.price - before
        tick = msgspec.structs.replace(tick, change_24h=change, change_percent_24h=change / before * 100)
    return tick


def list_sparklines(service: EnhancedDatabaseService) -> tuple[Sparkline, ...]:
    """Return the last SPARKLINE_POINTS prices of every symbol, one per SPARKLINE_STEP."""
    return service.get_sparklines(points=SPARKLINE_POINTS, step=SPARKLINE_STEP)


def load_symbol(service: EnhancedDatabaseService, symbol: str, chosen: Range) -> SymbolView | None:
    """Return a symbol with its candles and events in a range, or None if the symbol has no price."""
    tick = next((tick for tick in list_ticks(service) if tick.symbol == symbol), None)
    if tick is None:
        return None
    window = find_window(chosen, tick.timestamp)
    [before] = service.list_prices_at([(symbol, window.start - MOMENT)])
    return SymbolView(
        tick=tick,
        window=window,
        candles=service.get_price_history(symbol, window.start, window.end, chosen.bucket),
        before=before,
        events=service.list_market_events(EVENTS_MARKED, symbol=symbol, since=window.start, until=window.end),
        moved_weeks=service.get_moved_weeks().get(symbol, 0),
    )


def find_window(chosen: Range, latest: datetime) -> Window:
    """Return the window of a range whose last price has the time `latest`.

    The window of 24 hours begins just after the price from which the 24-hour change is measured. Longer
    windows begin at 00:00 UTC. For example, if the last price is of 15 March, "1 week" begins on 9 March, and
    "1 month" on 16 February.
    """
    end = latest + MOMENT
    if chosen.is_day:
        return Window(latest - DAY + MOMENT, end)
    today = latest.astimezone(UTC).date()
    if chosen.days:
        first = today - timedelta(days=chosen.days - 1)
    else:
        years, month = divmod(today.year * 12 + today.month - 1 - chosen.months, 12)
        last_day = monthrange(years, month + 1)[1]
        first = today.replace(year=years, month=month + 1, day=min(today.day, last_day)) + DAY
    return Window(datetime.combine(first, time(0), UTC), end)


def list_events(service: EnhancedDatabaseService, wanted: EventFilter) -> tuple[MarketEvent, ...]:
    """Return the newest events that pass the filter, up to one more than `wanted.limit`.

    The additional event tells the page that older events exist.
    """
    return service.list_market_events(
        wanted.limit + 1, type=wanted.type, sentiment=wanted.sentiment, symbol=wanted.symbol
    )


def find_effect(
    service: EnhancedDatabaseService, wanted: EventFilter, chosen: str | None, window: timedelta
) -> EventEffect | None:
    """Return the effect of the event with the id `chosen`: what players did before and after it.

    If there is no such event, returns the effect of the newest event that passes the filter, or None.
    """
    effect = None
    if chosen is not None:
        with suppress(InvalidInput):
            effect = service.find_event_effect(chosen, window)
    if effect is None and (events := list_events(service, wanted)):
        effect = service.find_event_effect(events[0].id, window)
    return effect
