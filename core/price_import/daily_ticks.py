"""Builds one tick for each trading day in a table of prices, with the 24-hour change and the volatility.

Accesses no file and no database.
"""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from itertools import repeat
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from core.price_import.table import PriceTable
from core.records import VOLATILITY_RETURNS, Tick
from core.simulation.amounts import Floats, divide_rounded, find_units, to_decimals, to_prices
from core.simulation.price_statistics import PERCENT_UNITS, annualize_volatility, measure_change
from core.simulation.trading_hours import close_of

_MAX_UNITS: Final = 10**12  # for a price in units below this, price * 2 * PERCENT_UNITS fits into 64 bits

_DAY_SECONDS: Final = 86_400


def build_ticks(days: PriceTable, symbol: str, days_before: Sequence[tuple[date, Decimal]]) -> Iterator[Tick]:
    """Return one tick for each row of `days`, which has the trading days of one symbol, oldest first.

    `days_before` has the earlier trading days and their closes, oldest first. If it is empty, the first day
    has no change. A day with fewer than `VOLATILITY_RETURNS` days before it has no volatility.
    """
    prices = to_decimals(days["close"])
    closes_before = [close for _, close in days_before]
    before = len(days_before)
    all_closes = np.append(np.array(closes_before, np.float64), days["close"])
    times = [close_of(day) for day, _ in days_before]
    times += map(_close_of_ordinal, days["day"].tolist())
    changes, percents = _changes([*closes_before, *prices], all_closes, times)
    unknown = repeat(None)
    # positional arguments, in the order of the fields of `Tick`: keyword arguments would take twice as long
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


def _changes(
    exact: Sequence[Decimal], closes: Floats, times: Sequence[datetime]
) -> tuple[list[Decimal | None], list[Decimal | None]]:
    """Return the change of each close in money, and the change of each close in percent.

    A change is measured from the last close at least 24 hours earlier, and is None if there is no such close.
    `exact` and `closes` are the same closes, as decimals and as floats.
    """
    seconds = np.array([time.timestamp() for time in times], np.float64)
    references = np.searchsorted(seconds, seconds - _DAY_SECONDS, side="right") - 1
    known = references >= 0
    references = references[known]
    first: list[Decimal | None] = [None] * (len(exact) - len(references))
    units = find_units(closes)
    if units is not None and units.max(initial=0) < _MAX_UNITS:
        # integers are faster than decimals, and exact if no price has more than four decimal places
        change = units[known] - units[references]
        percent = divide_rounded(change * PERCENT_UNITS, units[references])
        return [*first, *to_prices(change)], [*first, *to_prices(percent)]
    pairs = zip(exact[len(first) :], references.tolist(), strict=True)
    moved = [measure_change(price, exact[row]) for price, row in pairs]
    return [*first, *(change for change, _ in moved)], [*first, *(percent for _, percent in moved)]


def _volatilities(closes: Floats) -> list[Decimal | None]:
    returns = np.diff(np.log(closes))
    unknown = list(repeat(None, min(VOLATILITY_RETURNS, len(closes))))
    if len(returns) < VOLATILITY_RETURNS:
        return [*unknown]
    # compute each day from its own window: rounding errors of a running sum would depend on the first day
    yearly = annualize_volatility(sliding_window_view(returns, VOLATILITY_RETURNS))
    return [*unknown, *to_prices(yearly)]
