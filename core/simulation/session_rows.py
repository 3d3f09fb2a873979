"""The rows of one finished session.

Owns how portfolios, positions, trades and leaderboard entries follow from what players
bought and what it is worth. Ids follow from the seed, the session and the player, so
that the same session always makes the same rows. Writes nothing.
"""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import repeat
from typing import Final
from uuid import UUID

import numpy as np
from frozendict import frozendict
from numpy.typing import NDArray

from core.records import LeaderboardEntry, Portfolio, Position, Trade
from core.simulation.amounts import Integers, to_money, to_moneys, to_prices
from core.simulation.identifiers import Kind, hash_ids, hash_texts, make_ids_of
from core.simulation.sessions import (
    STARTING_CENTS,
    SessionResult,
    percent_hundredths,
    rank_scores,
)

DAILY_RETURNS: Final = "daily_returns"
TOTAL_VALUE: Final = "total_value"
QUESTS_COMPLETED: Final = "quests_completed"

_BUY: Final = "BUY"


class SessionRows:
    """Builds the rows of a session from its players and their result, in the same order."""

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
        # in the order of the record's fields: keyword arguments double the cost of a row
        return map(
            Portfolio,
            make_ids_of(Kind.PORTFOLIO, seed=self._seed, when=self._opened, keys=self._keys),
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
        """Return what each player holds, by player and symbol."""
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
        """Return the purchases at the open that led to the positions."""
        rows, columns = np.nonzero(self._result.holdings.shares)
        keys = self._keys[rows] ^ hash_texts(symbols)[columns]
        return map(
            Trade,
            make_ids_of(Kind.TRADE, seed=self._seed, when=self._opened, keys=keys),
            [self._user_ids[row] for row in rows.tolist()],
            repeat(self._day),
            [symbols[column] for column in columns.tolist()],
            repeat(_BUY),
            map(Decimal, self._result.holdings.shares[rows, columns].tolist()),
            to_prices(self._result.holdings.paid[rows, columns], self._result.holdings.price_units),
            repeat(self._opened),
        )

    def build_entries(self, completed: Integers) -> Iterator[LeaderboardEntry]:
        """Yield the entries of all leaderboards; `completed` are each player's quests so far."""
        everyone = np.arange(len(self._user_ids))
        returns = percent_hundredths(self._result.change_cents)
        yield from self._leaderboard(DAILY_RETURNS, Kind.DAILY_RETURNS, everyone, returns)
        yield from self._leaderboard(TOTAL_VALUE, Kind.TOTAL_VALUE, everyone, self._result.value_cents)
        # a player without a completed quest is not on that leaderboard
        rows = np.flatnonzero(completed)
        yield from self._leaderboard(QUESTS_COMPLETED, Kind.QUESTS_COMPLETED, rows, completed[rows] * 100)

    def _leaderboard(
        self, category: str, kind: Kind, rows: NDArray[np.intp], hundredths: Integers
    ) -> Iterator[LeaderboardEntry]:
        places = rows.tolist()
        return map(
            LeaderboardEntry,
            make_ids_of(kind, seed=self._seed, when=self._closed, keys=self._keys[rows]),
            [self._user_ids[place] for place in places],
            [self._usernames[place] for place in places],
            repeat(self._day),
            repeat(category),
            to_moneys(hundredths),
            rank_scores(hundredths).tolist(),
            repeat(frozendict()),  # metadata
            repeat(self._closed),
        )
