"""The simulated players in one live session.

Chooses the players, stores their holdings when the session opens, and writes the values of the holdings. A
simulator that restarts in the middle of a session reads the stored holdings. They do not change if a player
chooses another strategy during the session.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from core.errors import UserNotFound
from core.records import (
    DAILY_RETURNS,
    QUESTS_COMPLETED,
    TOTAL_VALUE,
    LeaderboardUpdate,
    PortfolioUpdate,
    Position,
    User,
)
from core.service import EnhancedDatabaseService
from core.service.argument_checks import MAX_LIMIT
from core.simulation.amounts import Integers, to_cents, to_moneys, to_units
from core.simulation.behaviour import (
    LOOKBACKS,
    WINDOW,
    RecentSessions,
    choose_attending,
    choose_weights,
    has_strategy,
    read_traits,
)
from core.simulation.history import DailyPrices
from core.simulation.identifiers import hash_ids, hash_texts
from core.simulation.live_market import LiveMarket
from core.simulation.trading import (
    Holdings,
    SessionResult,
    SessionRows,
    buy_shares,
    hold_shares,
    percent_hundredths,
    value_holdings,
)
from core.simulation.trading_hours import midnight_of

MAX_PLAYERS: Final = 500
"""At most this number of players trade live. With this number, a step takes well under a second."""


class LivePlayers:
    """The players of one session. Arrays have one element per player, in the order of `users`.

    `candidates` has the users from whom the players were chosen.
    """

    def __init__(
        self,
        users: Sequence[User],
        day: date,
        *,
        market: LiveMarket,
        holdings: Holdings,
        candidates: Sequence[User],
    ) -> None:
        self.users = users
        self._day = day
        self._market = market
        self._holdings = holdings
        self._candidates = [user.id for user in candidates]
        self._written: Integers = np.full(len(users), -1, np.int64)
        self._touched = 0

    def value(self) -> SessionResult:
        """Return the holdings of the players and their value at the current prices."""
        return value_holdings(self._holdings, self._market.prices)

    def write(self, service: EnhancedDatabaseService, result: SessionResult) -> bool:
        """Write the portfolios and scores that changed since the last write.

        Returns False if a portfolio is missing because its player was deleted; scores are not written then.
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
        """Update `last_active` of the next player, so that players become active one by one over the day."""
        with suppress(UserNotFound):  # the player was deleted a moment ago: the next `write` returns False
            service.touch_last_active(self.users[self._touched % len(self.users)].id)
        self._touched += 1

    def were_chosen_from(self, users: Sequence[User]) -> bool:
        """Return whether the players were chosen from exactly these users, in this order."""
        return [user.id for user in users] == self._candidates

    def _portfolios(self, result: SessionResult, indices: NDArray[np.intp]) -> list[PortfolioUpdate]:
        rows = zip(
            indices.tolist(),
            to_moneys(result.value_cents[indices]),
            to_moneys(result.change_cents[indices]),
            to_moneys(result.holdings.cash_cents[indices]),
            strict=True,
        )
        return [
            PortfolioUpdate(self.users[index].id, self._day, value, change, cash)
            for index, value, change, cash in rows
        ]

    def _scores(self, hundredths: Integers, indices: NDArray[np.intp]) -> list[LeaderboardUpdate]:
        rows = zip(indices.tolist(), to_moneys(hundredths[indices]), strict=True)
        return [LeaderboardUpdate(self.users[index].id, score) for index, score in rows]


def list_players(service: EnhancedDatabaseService) -> list[User]:
    """Return the users whose preferences name a strategy, at most MAX_PLAYERS; these users can trade live."""
    users = service.search_users("", limit=MAX_LIMIT)
    return [user for user in users if has_strategy(user.preferences)][:MAX_PLAYERS]


def choose_players(service: EnhancedDatabaseService, candidates: Sequence[User], day: date) -> list[User]:
    """Return the users of `candidates` who take part in the session of `day`.

    The choice depends on their results in earlier sessions.
    """
    days = sorted(service.list_session_dates(limit=WINDOW, before=day))
    ids = [user.id for user in candidates]
    returns = service.list_player_scores(ids, DAILY_RETURNS, days)
    completed = service.list_player_scores(ids, QUESTS_COMPLETED, days)
    index_of = {user_id: index for index, user_id in enumerate(ids)}
    quests = {(score.user_id, score.session_date): int(score.score) for score in completed}
    recent = RecentSessions(len(ids))
    for session in days:
        scores = [score for score in returns if score.session_date == session]
        recent.add(
            np.array([user.created_at.astimezone(UTC).date() <= session for user in candidates], np.bool_),
            np.array([index_of[score.user_id] for score in scores], np.intp),
            np.array([to_cents(score.score) for score in scores], np.int64),
            np.array([quests.get((score.user_id, session), 0) for score in scores], np.int64),
        )
    attending = choose_attending(hash_ids(ids), np.ones(len(ids), np.bool_), recent.recent(), day)
    return [candidates[index] for index in attending.tolist()]


def buy_at_open(users: Sequence[User], market: LiveMarket, daily: DailyPrices) -> Holdings:
    """Return the holdings of players after their purchases at the opening prices of a session."""
    traits = read_traits(users)
    before = daily.history(market.symbols).carried[-LOOKBACKS[-1] - 1 :]
    weights = choose_weights(traits, before, market.opens > 0, hash_texts(market.symbols))
    return buy_shares(weights, traits.invested_percent, market.opens, market.price_units)


def open_players(
    service: EnhancedDatabaseService,
    day: date,
    *,
    market: LiveMarket,
    daily: DailyPrices,
    check_stop: Callable[[], None],
) -> LivePlayers:
    """Return the players of the session of `day`; create the portfolios and positions that do not exist yet.

    Calls `check_stop`, which may raise, before each player.
    """
    candidates = list_players(service)
    present = []
    for user in choose_players(service, candidates, day):
        check_stop()
        try:
            service.get_current_portfolio(user.id, day)
        except UserNotFound:
            continue  # this player was deleted after the search
        present.append(user)
    holdings = _store_holdings(service, present, day, market, buy_at_open(present, market, daily))
    return LivePlayers(present, day, market=market, holdings=holdings, candidates=candidates)


def _store_holdings(
    service: EnhancedDatabaseService,
    users: Sequence[User],
    day: date,
    market: LiveMarket,
    bought: Holdings,
) -> Holdings:
    """Store the purchases of the players who have no stored positions; return the holdings of all players."""
    stored: dict[UUID, list[Position]] = {}
    for position in service.list_positions([user.id for user in users], day):
        stored.setdefault(position.user_id, []).append(position)
    holdings = _replace_stored(bought, users, market.symbols, stored)
    new = np.array([index for index, user in enumerate(users) if user.id not in stored], np.intp)
    opened = midnight_of(day)
    purchases = hold_shares(holdings.shares[new], holdings.paid[new], market.price_units)
    rows = SessionRows(
        [(users[index].id, users[index].username) for index in new.tolist()],
        day,
        value_holdings(purchases, market.opens),
        seed=0,
        opened=opened,
        closed=opened,
    )
    service.load_trades(rows.build_trades(market.symbols))
    service.load_positions(rows.build_positions(market.symbols))
    return holdings


def _replace_stored(
    bought: Holdings,
    users: Sequence[User],
    symbols: tuple[str, ...],
    stored: Mapping[UUID, Sequence[Position]],
) -> Holdings:
    shares, paid = bought.shares.copy(), bought.paid.copy()
    column_of = {symbol: column for column, symbol in enumerate(symbols)}
    for index, user in enumerate(users):
        if user.id in stored:
            shares[index] = 0
            for position in stored[user.id]:
                column = column_of[position.symbol]
                shares[index, column] = int(position.quantity)
                paid[index, column] = to_units(position.average_price, bought.price_units)
    return hold_shares(shares, paid, bought.price_units)
