"""Builds the tick of each trading day from a table of prices.

Owns the values that follow from a series of closes: the change against the previous trading day
and the volatility. Reads no file and no database.
"""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from functools import cache
from itertools import repeat
from operator import sub
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from core.records import Tick
from core.simulation.amounts import Floats, divide_rounded, find_units, to_decimals, to_price, to_prices
from core.simulation.history import TRADING_DAYS_PER_YEAR, close_of

if TYPE_CHECKING:  # pyarrow stays out of the live market, which needs no price file
    from core.price_import.table import PriceTable

VOLATILITY_RETURNS: Final = 20
"""A month of trading days, the usual window of historical volatility."""

PERCENT_STEP: Final = Decimal("0.0001")

_PERCENT_UNITS: Final = 1_000_000  # 1/10000 of a percent in the ratio 1
_MAX_UNITS: Final = 10**12  # times as many units of a percent, twice, is within 64 bits

_EXACT: Final = Context(prec=60)
"""Enough digits to round a quotient of stored prices correctly."""


def build_ticks(days: "PriceTable", symbol: str, closes_before: Sequence[Decimal]) -> Iterator[Tick]:
    """Return one tick for each row, which are one symbol's trading days in order.

    `closes_before` are the closes of the trading days before the first row, oldest first; without
    one the first day has no change, and a day that fewer than `VOLATILITY_RETURNS` days precede
    has no volatility.
    """
    prices = to_decimals(days["close"])
    closes = [*closes_before, *prices]
    before = len(closes_before)
    all_closes = np.append(np.array(closes_before, np.float64), days["close"])
    changes, percents = _changes(closes, all_closes)
    unknown = repeat(None)
    # positional, in the order of the record's fields: keyword arguments double the cost
    return map(
        Tick,
        repeat(symbol),
        [_close_of_ordinal(day) for day in days["day"].tolist()],
        prices,
        np.rint(days["volume"]).astype(np.int64).tolist(),
        unknown,  # bid
        unknown,  # ask
        changes[before:],
        percents[before:],
        _volatilities(all_closes)[before:],
        _to_optional(days["open"]),
        _to_optional(days["high"]),
        _to_optional(days["low"]),
    )


def _to_optional(prices: Floats) -> Sequence[Decimal | None]:
    missing = np.isnan(prices)
    if not missing.any():
        return to_decimals(prices)
    known = iter(to_decimals(prices[~missing]))
    return [None if is_missing else next(known) for is_missing in missing.tolist()]


@cache
def _close_of_ordinal(day: int) -> datetime:
    return close_of(date.fromordinal(day))


def annualize_percent(daily: float) -> Decimal:
    """Return a daily standard deviation as a yearly one in percent."""
    return to_price(round(daily * np.sqrt(TRADING_DAYS_PER_YEAR) * 1_000_000))


def _changes(exact: Sequence[Decimal], closes: Floats) -> tuple[list[Decimal | None], list[Decimal | None]]:
    """Return the changes in money and in percent; the closes are given as decimals and as floats."""
    first: list[Decimal | None] = [None] * min(1, len(exact))
    units = find_units(closes)
    if units is not None and units.max(initial=0) < _MAX_UNITS:
        # most prices have at most four places: the same result, by columns
        change = np.diff(units)
        percent = divide_rounded(change * _PERCENT_UNITS, units[:-1])
        return [*first, *to_prices(change)], [*first, *to_prices(percent)]
    with localcontext(_EXACT):
        changes = list(map(sub, exact[1:], exact))
        percents = [
            (change * 100 / before).quantize(PERCENT_STEP, ROUND_HALF_UP)
            for change, before in zip(changes, exact, strict=False)
        ]
    return [*first, *changes], [*first, *percents]


def _volatilities(closes: Floats) -> list[Decimal | None]:
    returns = np.diff(np.log(closes))
    unknown = list(repeat(None, min(VOLATILITY_RETURNS, len(closes))))
    if len(returns) < VOLATILITY_RETURNS:
        return [*unknown]
    # a running sum would depend on the first day of the series
    daily = sliding_window_view(returns, VOLATILITY_RETURNS).std(axis=1, ddof=1)
    yearly = np.rint(daily * np.sqrt(TRADING_DAYS_PER_YEAR) * 1_000_000).astype(np.int64)
    return [*unknown, *to_prices(yearly)]
