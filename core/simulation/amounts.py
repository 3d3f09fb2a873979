"""Exact conversion between whole numbers and the decimals of the records.

Owns the two units of the simulation, 1/10000 for prices and cents for money, and
how a fraction of a unit is rounded: half away from zero, as PostgreSQL's round().
"""

from decimal import ROUND_HALF_UP, Decimal
from typing import Final

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

PRICE_UNITS: Final = 10_000
PRICE_UNITS_PER_CENT: Final = 100

_PRICE_STEP: Final = Decimal("0.0001")
_CENT: Final = Decimal("0.01")


def to_price(units: int) -> Decimal:
    """Return 1/10000 as a decimal with four places."""
    return units * _PRICE_STEP


def to_prices(units: Integers) -> list[Decimal]:
    """Return many prices at once."""
    return [unit * _PRICE_STEP for unit in units.tolist()]


def to_money(cents: int) -> Decimal:
    """Return cents as a decimal with two places."""
    return cents * _CENT


def to_moneys(cents: Integers) -> list[Decimal]:
    """Return many amounts of money at once."""
    return [cent * _CENT for cent in cents.tolist()]


def price_units(price: Decimal) -> int:
    """Return a price in 1/10000."""
    return int((price * PRICE_UNITS).to_integral_value(ROUND_HALF_UP))


def money_cents(money: Decimal) -> int:
    """Return an amount of money in cents."""
    return int((money * 100).to_integral_value(ROUND_HALF_UP))


def divide_rounded(values: Integers, divisor: Integers | int) -> Integers:
    """Divide whole numbers by positive ones; half a unit is rounded away from zero."""
    quotient = (2 * np.abs(values) + divisor) // (2 * divisor)
    return np.asarray(np.sign(values) * quotient, np.int64)
