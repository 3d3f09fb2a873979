"""Trading in one session: purchases at the open, the value of holdings later, and the rows to store.

All sums are exact, because money and prices are integers. Money is in cents. A price is a number of units:
`price_units` units make a price of 1.00 (see `amounts`). The same session always has the same rows, because
their ids depend only on the seed, the session and the player. Writes nothing.
"""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import repeat
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np
from frozendict import frozendict
from numpy.typing import NDArray

from core.records import (
    DAILY_RETURNS,
    QUESTS_COMPLETED,
    STARTING_CASH,
    TOTAL_VALUE,
    LeaderboardEntry,
    Portfolio,
    Position,
    Trade,
)
from core.simulation.amounts import (
    PRICE_UNITS,
    Integers,
    divide_rounded,
    to_cents,
    to_money,
    to_moneys,
    to_prices,
)
from core.simulation.identifiers import Kind, hash_ids, hash_texts, make_ids

STARTING_CENTS: Final = to_cents(STARTING_CASH)
_BUY: Final = "BUY"


class Holdings(NamedTuple):
    """The cash and shares of players. `shares` and `paid` have one row per player, one column per symbol.

    `paid` is the purchase price of one share in units; a price of 1.00 is `price_units` units. Where `shares`
    is 0, `paid` has no meaning.
    """

    cash_cents: Integers
    shares: Integers
    paid: Integers
    price_units: int = PRICE_UNITS


class SessionResult(NamedTuple):
    """The holdings of players, and for each player the value of cash and shares together."""

    holdings: Holdings
    value_cents: Integers

    @property
    def change_cents(self) -> Integers:
        """The gain or loss of each player in the session, in cents."""
        change: Integers = self.value_cents - STARTING_CENTS
        return change


def buy_shares(
    weights: Integers, invested_percent: Integers, opens: Integers, price_units: int = PRICE_UNITS
) -> Holdings:
    """Buy whole shares at the open, and return the holdings.

    Each player invests at most `invested_percent` percent of the starting cash. `weights` distributes this
    amount over the symbols; it has one row per player and one column per symbol. The rest stays cash.
    """
    budget = STARTING_CENTS * invested_percent // 100
    total = np.maximum(weights.sum(axis=1), 1)
    budgets = budget[:, np.newaxis] * weights // total[:, np.newaxis]
    prices = np.maximum(opens, 1)  # avoids a division by 0 for symbols without an opening price
    shares = np.where(opens > 0, budgets * (price_units // 100) // prices, 0)
    return hold_shares(shares, np.broadcast_to(opens, shares.shape), price_units)


def hold_shares(shares: Integers, paid: Integers, price_units: int) -> Holdings:
    """Return the holdings of players who bought these shares at these prices with the starting cash."""
    cash = STARTING_CENTS - value_shares(shares, paid, price_units).sum(axis=1)
    return Holdings(cash, shares, paid, price_units)


def value_holdings(holdings: Holdings, prices: Integers) -> SessionResult:
    """Return the value of holdings: cash plus shares times price. Each position is rounded to the cent."""
    worth = value_shares(holdings.shares, prices, holdings.price_units).sum(axis=1)
    return SessionResult(holdings, holdings.cash_cents + worth)


def value_shares(shares: Integers, prices: Integers, price_units: int) -> Integers:
    """Return the value of each position in cents; half a cent is rounded up."""
    return divide_rounded(shares * prices, price_units // 100)


def percent_hundredths(change_cents: Integers) -> Integers:
    """Convert changes in cents to hundredths of a percent of the starting cash."""
    return divide_rounded(change_cents * 10_000, STARTING_CENTS)


def rank_scores(scores: Integers) -> Integers:
    """Return the rank of each score, highest first; equal scores have the same rank (1, 2, 2, 4)."""
    ordered = np.sort(scores)
    ranks: Integers = len(scores) - np.searchsorted(ordered, scores, side="right") + 1
    return ranks


class SessionRows:
    """Builds the rows of a session; `players` has ids and usernames, in the order of `result`."""

    def __init__(
        self,
        players: Sequence[tuple[UUID, str]],
        day: date,
        result: SessionResult,
        *,
        seed: int,
        opened: datetime,
        closed: datetime,
    ) -> None:
        self._user_ids = [user_id for user_id, _ in players]
        self._usernames = [username for _, username in players]
        self._keys = hash_ids(self._user_ids)
        self._day = day
        self._result = result
        self._seed = seed
        self._opened = opened
        self._closed = closed

    def build_portfolios(self) -> Iterator[Portfolio]:
        """Return a portfolio for each player."""
        change = self._result.change_cents
        # positional arguments, in the order of the fields: keyword arguments would take twice as long
        return map(
            Portfolio,
            make_ids(Kind.PORTFOLIO, seed=self._seed, when=self._opened, keys=self._keys),
            self._user_ids,
            repeat(self._day),
            repeat(to_money(STARTING_CENTS)),
            to_moneys(self._result.holdings.cash_cents),
            to_moneys(self._result.value_cents),
            to_moneys(change),
            to_moneys(percent_hundredths(change)),
            repeat(self._opened),
            repeat(self._closed),
        )

    def build_positions(self, symbols: tuple[str, ...]) -> Iterator[Position]:
        """Return the positions of the players, ordered by player and symbol."""
        rows, columns = np.nonzero(self._result.holdings.shares)
        return map(
            Position,
            [self._user_ids[row] for row in rows.tolist()],
            repeat(self._day),
            [symbols[column] for column in columns.tolist()],
            map(Decimal, self._result.holdings.shares[rows, columns].tolist()),
            to_prices(self._result.holdings.paid[rows, columns], self._result.holdings.price_units),
        )

    def build_trades(self, symbols: tuple[str, ...]) -> Iterator[Trade]:
        """Return one trade for each position: the purchase at the open."""
        rows, columns = np.nonzero(self._result.holdings.shares)
        keys = self._keys[rows] ^ hash_texts(symbols)[columns]
        return map(
            Trade,
            make_ids(Kind.TRADE, seed=self._seed, when=self._opened, keys=keys),
            [self._user_ids[row] for row in rows.tolist()],
            repeat(self._day),
            [symbols[column] for column in columns.tolist()],
            repeat(_BUY),
            map(Decimal, self._result.holdings.shares[rows, columns].tolist()),
            to_prices(self._result.holdings.paid[rows, columns], self._result.holdings.price_units),
            repeat(self._opened),
        )

    def build_entries(self, completed: Integers) -> Iterator[LeaderboardEntry]:
        """Yield the entries of all leaderboards; `completed` is each player's number of completed quests."""
        all_players = np.arange(len(self._user_ids))
        returns = percent_hundredths(self._result.change_cents)
        yield from self._leaderboard(DAILY_RETURNS, Kind.DAILY_RETURNS, all_players, returns)
        yield from self._leaderboard(TOTAL_VALUE, Kind.TOTAL_VALUE, all_players, self._result.value_cents)
        # a player without a completed quest has no entry on the leaderboard of quests
        rows = np.flatnonzero(completed)
        yield from self._leaderboard(QUESTS_COMPLETED, Kind.QUESTS_COMPLETED, rows, completed[rows] * 100)

    def _leaderboard(
        self, category: str, kind: Kind, rows: NDArray[np.intp], hundredths: Integers
    ) -> Iterator[LeaderboardEntry]:
        indices = rows.tolist()
        return map(
            LeaderboardEntry,
            make_ids(kind, seed=self._seed, when=self._closed, keys=self._keys[rows]),
            [self._user_ids[index] for index in indices],
            [self._usernames[index] for index in indices],
            repeat(self._day),
            repeat(category),
            to_moneys(hundredths),
            rank_scores(hundredths).tolist(),
            repeat(frozendict()),  # metadata
            repeat(self._closed),
        )
