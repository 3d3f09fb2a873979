"""The simulated players in one live session.

Owns their positions and what they are worth. Positions follow from the opening prices
and the days before, so a simulator that starts anew in the middle of a session finds
the same ones.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.errors import UserNotFound
from core.records import LeaderboardUpdate, PortfolioUpdate, User
from core.service import EnhancedDatabaseService
from core.simulation.amounts import Integers, to_moneys
from core.simulation.boards import DAILY_RETURNS, TOTAL_VALUE
from core.simulation.daily_prices import DailyPrices
from core.simulation.identifiers import hash_texts
from core.simulation.live_market import LiveMarket
from core.simulation.sessions import SessionResult, percent_hundredths, play_session
from core.simulation.stopping import Stopping
from core.simulation.strategies import LOOKBACKS, choose_weights, is_strategy, read_traits

MAX_PLAYERS: Final = 500
"""Keeps a step well under a second; more players are in the game but do not trade live."""

_USERS_READ: Final = 1_000  # the most that one search returns


class LivePlayers:
    """Players with a strategy; one array element each, in the order of `users`."""

    def __init__(self, users: Sequence[User], day: date, market: LiveMarket, daily: DailyPrices) -> None:
        self.users = users
        self._day = day
        self._market = market
        self._traits = read_traits(users)
        before = daily.history(market.symbols).carried[-LOOKBACKS[-1] - 1 :]
        self._weights = choose_weights(self._traits, before, market.opens > 0, hash_texts(market.symbols))
        self._written: Integers = np.full(len(users), -1, np.int64)
        self._touched = 0

    def value(self) -> SessionResult:
        """Return what the players own at the present prices."""
        market, invested = self._market, self._traits.invested_percent
        return play_session(self._weights, invested, market.opens, market.prices)

    def write(self, service: EnhancedDatabaseService, result: SessionResult) -> bool:
        """Write the portfolios and scores that changed since they were written last.

        Returns False when a portfolio is gone, and its player with it.
        """
        changed = np.flatnonzero(result.value_cents != self._written)
        if not len(changed):
            return True
        if service.batch_update_portfolios(self._portfolios(result, changed)).missing:
            return False
        returns = percent_hundredths(result.change_cents)
        for category, scores in ((DAILY_RETURNS, returns), (TOTAL_VALUE, result.value_cents)):
            service.batch_update_leaderboard(category, self._scores(scores, changed), session_date=self._day)
        self._written = result.value_cents
        self._touch_next(service)
        return True

    def _touch_next(self, service: EnhancedDatabaseService) -> None:
        """Let one player after the other be seen in the game: all at once would be 500 writes a step."""
        with suppress(UserNotFound):  # deleted just now, which the next write notices
            service.touch_last_active(self.users[self._touched % len(self.users)].id)
        self._touched += 1

    def are_those(self, users: Sequence[User]) -> bool:
        """Say whether these are the players, and trade as they did when the session was opened."""
        return [(user.id, user.preferences) for user in users] == [
            (user.id, user.preferences) for user in self.users
        ]

    def _portfolios(self, result: SessionResult, places: NDArray[np.intp]) -> list[PortfolioUpdate]:
        rows = zip(
            places.tolist(),
            to_moneys(result.value_cents[places]),
            to_moneys(result.change_cents[places]),
            to_moneys(result.cash_cents[places]),
            strict=True,
        )
        return [
            PortfolioUpdate(self.users[place].id, self._day, value, change, cash)
            for place, value, change, cash in rows
        ]

    def _scores(self, hundredths: Integers, places: NDArray[np.intp]) -> list[LeaderboardUpdate]:
        rows = zip(places.tolist(), to_moneys(hundredths[places]), strict=True)
        return [LeaderboardUpdate(self.users[place].id, score) for place, score in rows]


def list_players(service: EnhancedDatabaseService) -> list[User]:
    """Return the users that trade live, by username."""
    everyone = service.search_users("", limit=_USERS_READ)
    return [user for user in everyone if is_strategy(user.preferences)][:MAX_PLAYERS]


def open_players(
    service: EnhancedDatabaseService,
    day: date,
    *,
    market: LiveMarket,
    daily: DailyPrices,
    stopping: Stopping,
) -> LivePlayers:
    """Return the players of a session, each with a portfolio in it."""
    present = []
    for user in list_players(service):
        stopping.check()
        try:
            service.get_current_portfolio(user.id, day)
        except UserNotFound:
            continue  # deleted since the search
        present.append(user)
    return LivePlayers(present, day, market, daily)
