"""What the market page reads from the service: prices, candles and market events.

Prices are at most 30 seconds old; candles and events are read each time.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from core import EnhancedDatabaseService
from core.records import Candle, MarketEvent, Sparkline

SPARKLINE_POINTS = 24
SPARKLINE_STEP = timedelta(hours=1)
"""The last day of a live market by the hour; imported prices have one point per day."""

EVENTS_MARKED = 200
"""Events marked in a chart: more would hide the candles."""

GAP_STEPS = 5
"""This many steps without a price split a range: the time in between is not read."""

PERIODS_READ = 12
"""The newest parts of a range that are read, one statement each."""


class Range(msgspec.Struct, frozen=True):
    """The length of a chart: `steps` steps with prices, in candles of one bucket.

    Steps without prices do not count, so a market that was closed for years, or has just opened, shows as
    much as any other. `labels` is the time on the axis as a d3 format.
    """

    name: str
    step: timedelta
    steps: int
    bucket: str
    candle: str
    labels: str


class EventFilter(msgspec.Struct, frozen=True):
    """The market events to list; None in a field lets all pass."""

    type: str | None
    sentiment: str | None
    symbol: str | None
    limit: int


class Period(msgspec.Struct, frozen=True):
    """A time with prices: from `start` until before `end`."""

    start: datetime
    end: datetime


HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(weeks=1)
RANGES = (
    Range("1 day", HOUR, 24, "5m", "5 minutes", "%H:%M"),
    Range("1 week", DAY, 7, "30m", "30 minutes", "%-d %b %Y"),
    Range("1 month", DAY, 30, "2h", "2 hours", "%-d %b %Y"),
    Range("3 months", WEEK, 13, "8h", "8 hours", "%-d %b %Y"),
    Range("1 year", WEEK, 52, "1d", "1 day", "%-d %b %Y"),
    Range("5 years", WEEK, 261, "1w", "1 week", "%b %Y"),
    Range("10 years", 2 * WEEK, 261, "2w", "2 weeks", "%b %Y"),
)
"""Each has at most about 360 candles, however many ticks there are."""


def list_sparklines(service: EnhancedDatabaseService) -> tuple[Sparkline, ...]:
    """Return the last prices of every symbol."""
    return service.get_sparklines(points=SPARKLINE_POINTS, step=SPARKLINE_STEP)


def load_candles(service: EnhancedDatabaseService, symbol: str, chosen: Range) -> tuple[Candle, ...]:
    """Return the candles of a range that ends with the symbol's latest price, oldest first."""
    lines = service.get_sparklines([symbol], points=chosen.steps, step=chosen.step)
    periods = split_periods(lines[0].times if lines else (), step=chosen.step)
    return tuple(
        candle
        for period in periods
        for candle in service.get_price_history(symbol, period.start, period.end, chosen.bucket)
    )


def split_periods(times: Sequence[datetime], *, step: timedelta) -> tuple[Period, ...]:
    """Return the newest periods that contain these times, oldest first, without the gaps in between.

    `times` are the last price of each step, oldest first.
    """
    periods: list[Period] = []
    for time in times:
        # the step may have begun a whole step earlier; a period does not include its end
        start, end = time - step, time + timedelta(microseconds=1)
        if periods and time - periods[-1].end <= GAP_STEPS * step:
            periods[-1] = Period(periods[-1].start, end)
        else:
            periods.append(Period(start, end))
    return tuple(periods[-PERIODS_READ:])


def list_marked_events(
    service: EnhancedDatabaseService, symbol: str, candles: Sequence[Candle], *, latest: datetime
) -> tuple[MarketEvent, ...]:
    """Return the newest events of a symbol since its first candle."""
    end = latest + timedelta(microseconds=1)
    return service.list_market_events(EVENTS_MARKED, symbol=symbol, since=candles[0].bucket, until=end)


def list_events(service: EnhancedDatabaseService, wanted: EventFilter) -> tuple[MarketEvent, ...]:
    """Return the newest events that pass the filter, and one more than the limit if there is one."""
    return service.list_market_events(
        wanted.limit + 1, type=wanted.type, sentiment=wanted.sentiment, symbol=wanted.symbol
    )
