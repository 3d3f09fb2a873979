"""What the portfolios page reads from the service.

The market is at most 30 seconds old, the best player two minutes; a player's sessions and ranks are read
each time. Never creates a portfolio.
"""

from collections.abc import Sequence
from datetime import date, timedelta

import msgspec

from core import EnhancedDatabaseService
from core.errors import LeaderboardEntryNotFound, UserNotFound
from core.records import LeaderboardEntry, MarketReturn, PlayerScore, Portfolio, Quest, User
from core.service.market import MAX_MARKET_DAYS
from dashboard.data import find_newest_leaderboard_day, list_categories
from dashboard.formats import KNOWN_CATEGORIES, Category

RETURNS = KNOWN_CATEGORIES[0].key

SUGGESTED_PLAYERS = 10

GAP = timedelta(days=31)
"""A longer pause between sessions splits a history: the market in between is not read."""

SPANS_READ = 12
"""The newest parts of a history for which the market is read, one statement each."""


class Player(msgspec.Struct, frozen=True):
    """A player with the sessions shown, newest first."""

    user: User
    history: tuple[Portfolio, ...]


class PlayerRank(msgspec.Struct, frozen=True):
    """A player's entry on one leaderboard, None without a score."""

    category: Category
    entry: LeaderboardEntry | None


def suggest_players(service: EnhancedDatabaseService) -> tuple[str, ...]:
    """Return the usernames of the best players of the newest session with scores."""
    day = find_newest_leaderboard_day(service)
    if day is None:
        return ()
    return tuple(entry.username for entry in service.get_leaderboard(RETURNS, day, SUGGESTED_PLAYERS))


def find_history(service: EnhancedDatabaseService, user: User, *, limit: int) -> Player | None:
    """Return a player with the newest sessions, or None without any."""
    history = service.get_portfolio_history(user.id, limit=limit)
    return Player(user, history) if history else None


def list_active_quests(service: EnhancedDatabaseService, user: User) -> list[Quest]:
    """Return the player's active quests, newest first."""
    quests = service.get_user_active_quests(user.id)
    return sorted(quests, key=lambda quest: quest.created_at, reverse=True)


def list_ranks(service: EnhancedDatabaseService, user: User, day: date) -> tuple[PlayerRank, ...]:
    """Return the player's rank on every leaderboard of one session."""

    def find_entry(category: str) -> LeaderboardEntry | None:
        try:
            return service.get_user_rank(user.id, category, day)
        except LeaderboardEntryNotFound:
            return None

    return tuple(PlayerRank(category, find_entry(category.key)) for category in list_categories(service, day))


def list_rank_history(
    service: EnhancedDatabaseService, player: Player, category: Category
) -> tuple[PlayerScore, ...]:
    """Return the player's rank on a leaderboard in each of the sessions, oldest first."""
    days = [row.session_date for row in player.history]
    return service.list_player_scores([player.user.id], category.key, days, ranked=True)


def list_market_returns(
    service: EnhancedDatabaseService, history: Sequence[Portfolio]
) -> tuple[MarketReturn, ...]:
    """Return the market's returns, oldest first, over sessions that are given newest first."""
    days = [row.session_date for row in reversed(history)]
    return tuple(
        found for first, last in split_days(days) for found in service.get_market_returns(first, last)
    )


def split_days(days: Sequence[date]) -> tuple[tuple[date, date], ...]:
    """Return the newest spans (first and last day) that contain these days, oldest first.

    Years without a session can lie between a replay of old prices and the live market. No span is longer
    than the service reads at once.
    """
    spans: list[tuple[date, date]] = []
    for day in days:
        first, last = spans[-1] if spans else (date.min, date.min)
        if day - last <= GAP and (day - first).days < MAX_MARKET_DAYS:
            spans[-1] = (first, day)
        else:
            spans.append((day, day))
    return tuple(spans[-SPANS_READ:])


def find_best(service: EnhancedDatabaseService, player: Player) -> Player | None:
    """Return the leader of the player's newest session with as many sessions; None if it is the player.

    Not the best over all sessions: adding those up in a large game takes seconds, and without a cache
    every portfolio would wait for it.
    """
    day = player.history[0].session_date
    leaders = service.get_leaderboard(RETURNS, day, 1)
    if not leaders or leaders[0].user_id == player.user.id:
        return None
    try:
        user = service.get_user_by_id(leaders[0].user_id)
    except UserNotFound:
        return None
    next_day = None if day == date.max else day + timedelta(days=1)
    return Player(user, service.get_portfolio_history(user.id, limit=len(player.history), before=next_day))
