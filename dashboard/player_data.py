"""What the portfolios page reads beyond a player's own sessions, and from which service call.

Owns the choice of calls; answers are the service's own records. Never shows anything and
never holds SQL. The market is at most 30 seconds old, the best player two minutes, a
player's sessions and ranks are as of now.
"""

from collections.abc import Sequence
from datetime import date

import msgspec

from core import EnhancedDatabaseService
from core.errors import UserNotFound
from core.records import MarketReturn, PlayerScore, Portfolio, User
from dashboard.formats import KNOWN_CATEGORIES, Category

RETURNS = KNOWN_CATEGORIES[0].key


class Player(msgspec.Struct, frozen=True):
    """A player with the sessions shown, newest first."""

    user: User
    history: tuple[Portfolio, ...]


def load_market(service: EnhancedDatabaseService, history: Sequence[Portfolio]) -> tuple[MarketReturn, ...]:
    """Return what the market did over the sessions of a player, given newest first."""
    return service.get_market_returns(history[-1].session_date, history[0].session_date)


def find_best(
    service: EnhancedDatabaseService, history: Sequence[Portfolio], *, besides: User
) -> Player | None:
    """Return who leads a player's newest session, with as many sessions as the player has.

    None when that is the player. Not the best of many sessions: adding those up for a large
    game takes seconds, and every portfolio would wait for it while there is no cache.
    """
    day = history[0].session_date
    leaders = service.get_leaderboard(RETURNS, day, 1)
    if not leaders or leaders[0].user_id == besides.id:
        return None
    try:
        user = service.get_user_by_id(leaders[0].user_id)
    except UserNotFound:
        return None
    found = service.get_portfolio_history(user.id, limit=len(history), before=_day_after(day))
    return Player(user, found)


def load_ranks_over_time(
    service: EnhancedDatabaseService, user: User, category: Category, history: Sequence[Portfolio]
) -> tuple[PlayerScore, ...]:
    """Return a player's rank on a board in each of the sessions, oldest first."""
    days = [row.session_date for row in history]
    return service.list_player_scores([user.id], category.key, days, ranked=True)


def _day_after(day: date) -> date | None:
    return None if day == date.max else date.fromordinal(day.toordinal() + 1)
