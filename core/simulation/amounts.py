"""Exact conversion between whole numbers and the decimals of the records.

Owns the two units of the simulation, cents for money and a power of ten for prices, 1/10000 or
finer, and how a fraction of a unit is rounded: half away from zero, as PostgreSQL's round().
"""

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

PRICE_UNITS: Final = 10_000
"""Units in 1.00 where no price has more than four places."""

MAX_PLACES: Final = 10
"""Shares times a price with more places would not fit into 64 bits; they change no value by a cent."""

MAX_UNITS: Final = 10**18
"""No price may be more units than this."""

_CENT: Final = Decimal("0.01")


def find_price_units(prices: Iterable[Decimal]) -> int:
    """Return the number of units in 1.00 for which these prices are whole numbers."""
    places, highest = 4, Decimal(1)
    for price in prices:
        places = max(places, -int(price.normalize().as_tuple().exponent))
        highest = max(highest, price)
    return int(10 ** min(places, MAX_PLACES, len(str(MAX_UNITS)) - 2 - highest.adjusted()))


def to_price(units: int, price_units: int = PRICE_UNITS) -> Decimal:
    """Return a number of units as a price."""
    return units * (1 / Decimal(price_units))


def to_prices(units: Integers, price_units: int = PRICE_UNITS) -> list[Decimal]:
    """Return many prices at once."""
    step = 1 / Decimal(price_units)
    return [unit * step for unit in units.tolist()]


def to_decimals(prices: Floats) -> list[Decimal]:
    """Return prices with the digits that were written: those of the float's shortest text."""
    units = find_units(prices)
    return [Decimal(repr(price)) for price in prices.tolist()] if units is None else to_prices(units)


def find_units(prices: Floats) -> Integers | None:
    """Return prices in 1/10000, None when one has more digits."""
    units = np.rint(prices * PRICE_UNITS)
    return units.astype(np.int64) if (units / PRICE_UNITS == prices).all() else None


def to_money(cents: int) -> Decimal:
    """Return cents as a decimal with two places."""
    return cents * _CENT


def to_moneys(cents: Integers) -> list[Decimal]:
    """Return many amounts of money at once."""
    return [cent * _CENT for cent in cents.tolist()]


def count_units(price: Decimal, price_units: int = PRICE_UNITS) -> int:
    """Return a price in units."""
    return int((price * price_units).to_integral_value(ROUND_HALF_UP))


def money_cents(money: Decimal) -> int:
    """Return an amount of money in cents."""
    return int((money * 100).to_integral_value(ROUND_HALF_UP))


def divide_whole(value: int, divisor: int) -> int:
    """Divide a whole number of any size by a positive one, rounded as `divide_rounded` does."""
    quotient = (2 * abs(value) + divisor) // (2 * divisor)
    return quotient if value >= 0 else -quotient


def divide_rounded(values: Integers, divisor: Integers | int) -> Integers:
    """Divide whole numbers by positive ones; half a unit is rounded away from zero."""
    quotient = (2 * np.abs(values) + divisor) // (2 * divisor)
    return np.asarray(np.sign(values) * quotient, np.int64)
