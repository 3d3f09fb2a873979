"""Converts money and prices between decimals, which records have, and integers, which the simulation uses.

Computation with integers is exact. Money is an integer number of cents. A price is an integer number of
units; a unit is 1/10000 or a smaller power of ten. Half a unit is rounded away from zero, as in PostgreSQL's
round().
"""

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

PRICE_UNITS: Final = 10_000
"""The number of units in a price of 1.00, if no price has more than four decimal places."""

MAX_PLACES: Final = 10
"""A price in units has at most this number of decimal places; further places are rounded away.

With more places, shares times price would not fit into 64 bits. The places that are rounded away would not
change the value of a position by a cent.
"""

MAX_UNITS: Final = 10**18
"""The largest price, in units."""

_CENT: Final = Decimal("0.01")


def find_price_units(prices: Iterable[Decimal]) -> int:
    """Return how many units make a price of 1.00, so that each of these prices is a whole number of units.

    The number is a power of ten. It is limited by MAX_PLACES and MAX_UNITS; prices with more decimal places
    are rounded when they are converted.
    """
    places, highest = 4, Decimal(1)
    for price in prices:
        places = max(places, -int(price.normalize().as_tuple().exponent))
        highest = max(highest, price)
    return int(10 ** min(places, MAX_PLACES, len(str(MAX_UNITS)) - 2 - highest.adjusted()))


def to_price(units: int, price_units: int = PRICE_UNITS) -> Decimal:
    """Convert a price in units to a decimal; a price of 1.00 is `price_units` units."""
    return units * (1 / Decimal(price_units))


def to_prices(units: Integers, price_units: int = PRICE_UNITS) -> list[Decimal]:
    """Convert an array of prices in units to decimals; a price of 1.00 is `price_units` units."""
    step = 1 / Decimal(price_units)
    return [unit * step for unit in units.tolist()]


def to_decimals(prices: Floats) -> list[Decimal]:
    """Convert floats to decimals with the digits of `repr`, which are the digits in the price file."""
    units = find_units(prices)
    return [Decimal(repr(price)) for price in prices.tolist()] if units is None else to_prices(units)


def find_units(prices: Floats) -> Integers | None:
    """Return prices in units of 1/10000, or None if a price has more than four decimal places."""
    units = np.rint(prices * PRICE_UNITS)
    return units.astype(np.int64) if (units / PRICE_UNITS == prices).all() else None


def to_money(cents: int) -> Decimal:
    """Convert cents to a decimal with two places."""
    return cents * _CENT


def to_moneys(cents: Integers) -> list[Decimal]:
    """Convert an array of cents to decimals with two places."""
    return [cent * _CENT for cent in cents.tolist()]


def to_units(price: Decimal, price_units: int) -> int:
    """Convert a price to units; a price of 1.00 is `price_units` units."""
    return int((price * price_units).to_integral_value(ROUND_HALF_UP))


def to_cents(money: Decimal) -> int:
    """Convert an amount of money to cents."""
    return int((money * 100).to_integral_value(ROUND_HALF_UP))


def divide_whole(value: int, divisor: int) -> int:
    """Divide an integer of any size by a positive integer, and round. Half is rounded away from zero."""
    quotient = (2 * abs(value) + divisor) // (2 * divisor)
    return quotient if value >= 0 else -quotient


def divide_rounded(values: Integers, divisor: Integers | int) -> Integers:
    """Divide integers by positive integers, and round. Half is rounded away from zero."""
    quotient = (2 * np.abs(values) + divisor) // (2 * divisor)
    return np.asarray(np.sign(values) * quotient, np.int64)
