"""Change and volatility of prices, for imported days and for ticks of the live market."""

from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from typing import Final

import numpy as np

from core.records import TRADING_DAYS_PER_YEAR
from core.simulation.amounts import Floats, Integers

PERCENT_STEP: Final = Decimal("0.0001")
PERCENT_UNITS: Final = 1_000_000
"""A ratio of 1, which is 100 percent, in units of 1/10000 percent."""

_EXACT: Final = Context(prec=60)
"""A precision that is sufficient to round a quotient of stored prices correctly."""


def measure_change(price: Decimal, before: Decimal | None) -> tuple[Decimal | None, Decimal | None]:
    """Return the change from an earlier price in money and in percent; both are None without that price."""
    if before is None:
        return None, None
    with localcontext(_EXACT):
        change = price - before
        return change, (change * 100 / before).quantize(PERCENT_STEP, ROUND_HALF_UP)


def annualize_volatility(returns: Floats) -> Integers:
    """Return the volatility per year of each row of daily log returns, in units of 1/10000 percent."""
    daily = returns.std(axis=1, ddof=1)
    yearly: Integers = np.rint(daily * np.sqrt(TRADING_DAYS_PER_YEAR) * PERCENT_UNITS).astype(np.int64)
    return yearly
