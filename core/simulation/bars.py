"""Builds the tick of each trading day.

Owns the figures that follow from a series of closes: the change against the
previous trading day and the volatility. Never reads a file or the database.
"""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from itertools import repeat
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from core.records import Tick
from core.simulation.amounts import Integers, divide_rounded, to_price, to_prices
from core.simulation.price_table import CLOSE, HIGH, LOW, OPEN, PriceTable
from core.simulation.trading_day import TRADING_DAYS_PER_YEAR, close_of

VOLATILITY_RETURNS: Final = 20
"""A month of trading days, the usual window of historical volatility."""

_PERCENT_UNITS: Final = 1_000_000  # 1/10000 of a percent in the ratio 1


def build_ticks(days: PriceTable, symbol: str, closes_before: Sequence[int]) -> Iterator[Tick]:
    """Return one tick for each row, which are one symbol's trading days in order.

    `closes_before` are the closes of the trading days before the first row, oldest
    first, in 1/10000; without one the first day has no change, and a day that
    fewer than `VOLATILITY_RETURNS` days precede has no volatility.
    """
    closes = np.concatenate([np.asarray(closes_before, np.int64), days.bars[:, CLOSE]])
    before = len(closes_before)
    changes, percents = _changes(closes)
    unknown = repeat(None)
    # in the order of the record's fields: keyword arguments double the cost of a tick
    return map(
        Tick,
        repeat(symbol),
        [_close_of_ordinal(day) for day in days.days.tolist()],
        to_prices(days.bars[:, CLOSE]),
        days.volumes.tolist(),
        unknown,  # bid
        unknown,  # ask
        changes[before:],
        percents[before:],
        _volatilities(closes)[before:],
        to_prices(days.bars[:, OPEN]),
        to_prices(days.bars[:, HIGH]),
        to_prices(days.bars[:, LOW]),
    )


@cache
def _close_of_ordinal(day: int) -> datetime:
    return close_of(date.fromordinal(day))


def daily_volatility(closes: Integers) -> float | None:
    """Return the standard deviation of the daily log returns, None for fewer than two."""
    returns = np.diff(np.log(closes))
    return float(returns.std(ddof=1)) if len(returns) > 1 else None


def annualize_percent(daily: float) -> Decimal:
    """Return a daily standard deviation as a yearly one in percent."""
    return to_price(round(daily * np.sqrt(TRADING_DAYS_PER_YEAR) * 1_000_000))


def _changes(closes: Integers) -> tuple[list[Decimal | None], list[Decimal | None]]:
    change = np.diff(closes)
    percent = divide_rounded(change * _PERCENT_UNITS, closes[:-1])
    first: list[Decimal | None] = [None] * min(1, len(closes))
    return [*first, *to_prices(change)], [*first, *to_prices(percent)]


def _volatilities(closes: Integers) -> list[Decimal | None]:
    returns = np.diff(np.log(closes))
    unknown = list(repeat(None, min(VOLATILITY_RETURNS, len(closes))))
    if len(returns) < VOLATILITY_RETURNS:
        return [*unknown]
    # each window on its own: a running sum would depend on where the series starts
    daily = sliding_window_view(returns, VOLATILITY_RETURNS).std(axis=1, ddof=1)
    yearly = np.rint(daily * np.sqrt(TRADING_DAYS_PER_YEAR) * 1_000_000).astype(np.int64)
    return [*unknown, *to_prices(yearly)]
