"""Change and volatility of prices, for imported days and for ticks of the live market."""

from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from typing import Final

import numpy as np

from core.records import TRADING_DAYS_PER_YEAR
from core.simulation.amounts import Floats, Integers

PERCENT_STEP: Final = Decimal("0.0001")
PERCENT_UNITS: Final = 1_000_000
"""100 percent, in units of 1/10000 percent."""

_EXACT: Final = Context(prec=60)
"""Enough digits to round the quotient of two stored prices correctly."""


def measure_change(price: Decimal, before: Decimal | None) -> tuple[Decimal | None, Decimal | None]:
    """Return the change from `before` to `price`, in money and percent; both are None without `before`."""
    if before is None:
        return None, None
    with localcontext(_EXACT):
        change = price - before
        return change, (change * 100 / before).quantize(PERCENT_STEP, ROUND_HALF_UP)


def annualize_volatility(returns: Floats) -> Integers:
    """Return the yearly volatility for each row of daily log returns, in units of 1/10000 percent."""
    daily = returns.std(axis=1, ddof=1)
    yearly: Integers = np.rint(daily * np.sqrt(TRADING_DAYS_PER_YEAR) * PERCENT_UNITS).astype(np.int64)
    return yearly
