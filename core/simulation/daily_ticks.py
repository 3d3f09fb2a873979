"""Builds the tick of each trading day from a table of prices.

Owns the values that follow from a series of prices: the change in 24 hours and the volatility, also for
the ticks of the live market. Reads no file and no database.
"""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from functools import cache
from itertools import repeat
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from core.records import TRADING_DAYS_PER_YEAR, VOLATILITY_RETURNS, Tick
from core.simulation.amounts import Floats, Integers, divide_rounded, find_units, to_decimals, to_prices
from core.simulation.history import close_of

if TYPE_CHECKING:  # pyarrow stays out of the live market, which needs no price file
    from core.price_import.table import PriceTable

PERCENT_STEP: Final = Decimal("0.0001")

_PERCENT_UNITS: Final = 1_000_000  # a ratio of 1 is 100 percent, in units of 1/10000 percent
_MAX_UNITS: Final = 10**12  # multiplied by 2 * _PERCENT_UNITS it fits into 64 bits

_DAY_SECONDS: Final = 86_400

_EXACT: Final = Context(prec=60)
"""Enough digits to round a quotient of stored prices correctly."""


def build_ticks(
    days: "PriceTable", symbol: str, days_before: Sequence[tuple[date, Decimal]]
) -> Iterator[Tick]:
    """Return one tick for each row, which are one symbol's trading days in order.

    `days_before` are the trading days before the first row with their closes, oldest first; without
    one the first day has no change, and a day that fewer than `VOLATILITY_RETURNS` days precede
    has no volatility.
    """
    prices = to_decimals(days["close"])
    closes_before = [close for _, close in days_before]
    before = len(days_before)
    all_closes = np.append(np.array(closes_before, np.float64), days["close"])
    times = [close_of(day) for day, _ in days_before]
    times += map(_close_of_ordinal, days["day"].tolist())
    changes, percents = _changes([*closes_before, *prices], all_closes, times)
    unknown = repeat(None)
    # positional, in the order of the record's fields: keyword arguments double the cost
    return map(
        Tick,
        repeat(symbol),
        times[before:],
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


def measure_change(price: Decimal, before: Decimal | None) -> tuple[Decimal | None, Decimal | None]:
    """Return the change against an earlier price in money and in percent; None without one."""
    if before is None:
        return None, None
    with localcontext(_EXACT):
        change = price - before
        return change, (change * 100 / before).quantize(PERCENT_STEP, ROUND_HALF_UP)


def annualize_volatility(returns: Floats) -> Integers:
    """Return the volatility of each row of `VOLATILITY_RETURNS` daily log returns, in 1/10000 percent."""
    daily = returns.std(axis=1, ddof=1)
    yearly: Integers = np.rint(daily * np.sqrt(TRADING_DAYS_PER_YEAR) * _PERCENT_UNITS).astype(np.int64)
    return yearly


def _changes(
    exact: Sequence[Decimal], closes: Floats, times: Sequence[datetime]
) -> tuple[list[Decimal | None], list[Decimal | None]]:
    """Return the changes in money and in percent; the closes are given as decimals and as floats.

    Each is against the last close at or before 24 hours earlier; only the first days have none.
    """
    seconds = np.array([time.timestamp() for time in times], np.float64)
    references = np.searchsorted(seconds, seconds - _DAY_SECONDS, side="right") - 1
    known = references >= 0
    references = references[known]
    first: list[Decimal | None] = [None] * (len(exact) - len(references))
    units = find_units(closes)
    if units is not None and units.max(initial=0) < _MAX_UNITS:
        # most prices have at most four places: the same result, by columns
        change = units[known] - units[references]
        percent = divide_rounded(change * _PERCENT_UNITS, units[references])
        return [*first, *to_prices(change)], [*first, *to_prices(percent)]
    pairs = zip(exact[len(first) :], references.tolist(), strict=True)
    moved = [measure_change(price, exact[row]) for price, row in pairs]
    return [*first, *(change for change, _ in moved)], [*first, *(percent for _, percent in moved)]


def _volatilities(closes: Floats) -> list[Decimal | None]:
    returns = np.diff(np.log(closes))
    unknown = list(repeat(None, min(VOLATILITY_RETURNS, len(closes))))
    if len(returns) < VOLATILITY_RETURNS:
        return [*unknown]
    # a running sum would depend on the first day of the series
    yearly = annualize_volatility(sliding_window_view(returns, VOLATILITY_RETURNS))
    return [*unknown, *to_prices(yearly)]
