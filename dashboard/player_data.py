"""What the portfolios page reads beyond a player's own sessions, and from which service call.

Owns the choice of calls; answers are the service's own records. Never shows anything and
never holds SQL. The market is at most 30 seconds old, the best player two minutes, a
player's sessions and ranks are as of now.
"""

from collections.abc import Sequence
from datetime import date, timedelta

import msgspec

from core import EnhancedDatabaseService
from core.errors import UserNotFound
from core.records import MarketReturn, PlayerScore, Portfolio, User
from core.service.standings import MAX_MARKET_DAYS
from dashboard.formats import KNOWN_CATEGORIES, Category

RETURNS = KNOWN_CATEGORIES[0].key

GAP = timedelta(days=31)
"""So long without a session parts a history in two: the market between is not asked for."""

SPANS_READ = 12
"""Parts of a history for which the market is read, the newest: each is a statement."""


class Player(msgspec.Struct, frozen=True):
    """A player with the sessions shown, newest first."""

    user: User
    history: tuple[Portfolio, ...]


def find_history(service: EnhancedDatabaseService, user: User, *, limit: int) -> Player | None:
    """Return a player with the newest sessions, or None without any."""
    history = service.get_portfolio_history(user.id, limit=limit)
    return Player(user, history) if history else None


def load_market(service: EnhancedDatabaseService, history: Sequence[Portfolio]) -> tuple[MarketReturn, ...]:
    """Return what the market did over the sessions of a player, given newest first; oldest first."""
    days = [row.session_date for row in reversed(history)]
    return tuple(
        found for first, last in split_days(days) for found in service.get_market_returns(first, last)
    )


def split_days(days: Sequence[date]) -> tuple[tuple[date, date], ...]:
    """Return the newest spans, each its first and last day, that hold these days, oldest first.

    Between a replay of old prices and the live market lie years without a session. No span is
    longer than what the service reads at once.
    """
    spans: list[tuple[date, date]] = []
    for day in days:
        first, last = spans[-1] if spans else (date.min, date.min)
        if day - last <= GAP and (day - first).days < MAX_MARKET_DAYS:
            spans[-1] = (first, day)
        else:
            spans.append((day, day))
    return tuple(spans[-SPANS_READ:])


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
