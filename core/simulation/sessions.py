"""One session: what players buy at the open and what it is worth later.

Owns the arithmetic of money. Everything is a whole number, prices in a power of ten and
money in cents, so that every figure adds up to the cent.
"""

from typing import Final, NamedTuple

import numpy as np

from core.simulation.amounts import PRICE_UNITS, Integers, divide_rounded

STARTING_CENTS: Final = 1_000_000
"""Every session starts with 10,000.00."""


class Holdings(NamedTuple):
    """What players own; a row per player, and in `shares` and `paid` a column per symbol.

    `paid` is the price of one share, `price_units` are 1.00; meaningful where there are shares.
    """

    cash_cents: Integers
    shares: Integers
    paid: Integers
    price_units: int = PRICE_UNITS


class SessionResult(NamedTuple):
    """What players own and what that is worth, in the order of the holdings."""

    holdings: Holdings
    value_cents: Integers

    @property
    def change_cents(self) -> Integers:
        """What each player gained or lost in the session."""
        change: Integers = self.value_cents - STARTING_CENTS
        return change


def buy_shares(
    weights: Integers, invested_percent: Integers, opens: Integers, price_units: int = PRICE_UNITS
) -> Holdings:
    """Buy whole shares at the open.

    Each player splits `invested_percent` of the starting cash by `weights`, one row per
    player and one column per symbol; the rest stays cash, as does what a share costs
    too much for.
    """
    budget = STARTING_CENTS * invested_percent // 100
    total = np.maximum(weights.sum(axis=1), 1)
    budgets = budget[:, np.newaxis] * weights // total[:, np.newaxis]
    prices = np.maximum(opens, 1)  # a symbol without a price has no weight
    shares = np.where(opens > 0, budgets * (price_units // 100) // prices, 0)
    return hold_shares(shares, np.broadcast_to(opens, shares.shape), price_units)


def hold_shares(shares: Integers, paid: Integers, price_units: int = PRICE_UNITS) -> Holdings:
    """Return the holdings of players who bought these shares at these prices."""
    cash = STARTING_CENTS - value_shares(shares, paid, price_units).sum(axis=1)
    return Holdings(cash, shares, paid, price_units)


def value_holdings(holdings: Holdings, prices: Integers) -> SessionResult:
    """Return the cash and, symbol by symbol, shares times price rounded to the cent."""
    worth = value_shares(holdings.shares, prices, holdings.price_units).sum(axis=1)
    return SessionResult(holdings, holdings.cash_cents + worth)


def value_shares(shares: Integers, prices: Integers, price_units: int = PRICE_UNITS) -> Integers:
    """Return what each position is worth in cents; half a cent counts as one."""
    return divide_rounded(shares * prices, price_units // 100)


def percent_hundredths(change_cents: Integers) -> Integers:
    """Return a change in percent of the starting cash, in hundredths of a percent."""
    return divide_rounded(change_cents * 10_000, STARTING_CENTS)


def rank_scores(scores: Integers) -> Integers:
    """Return the rank of each score, highest first; equal scores share it (1, 2, 2, 4)."""
    ordered = np.sort(scores)
    ranks: Integers = len(scores) - np.searchsorted(ordered, scores, side="right") + 1
    return ranks
