"""Reads that several pages share: players, and the lists of sessions and categories.

Answers are the service's own records. The service caches them, so they can be as old as its time to
live. Sessions and categories, which every view reads, are cached here for five more seconds.
"""

from datetime import UTC, date, datetime

from core import EnhancedDatabaseService
from core.errors import InvalidInput, UserNotFound
from core.records import User
from dashboard import runtime
from dashboard.categories import KNOWN_CATEGORIES, Category, describe_category

MATCHES_SHOWN = 24
"""Most players that a search shows: as many as fit on a phone with little scrolling."""


def is_open_session(day: date, now: datetime) -> bool:
    """Return whether the session of a day is still open: true for today (UTC) and for later days."""
    return day >= now.astimezone(UTC).date()


def list_categories(service: EnhancedDatabaseService, day: date) -> tuple[Category, ...]:
    """Return the known categories, then all others that have scores in this session."""
    found = runtime.get_cache().get_or_load(
        (service, "categories", day), lambda: service.list_leaderboard_categories(day)
    )
    known = [category.key for category in KNOWN_CATEGORIES]
    return (*KNOWN_CATEGORIES, *(describe_category(key) for key in found if key not in known))


def find_newest_leaderboard_day(service: EnhancedDatabaseService) -> date | None:
    """Return the newest session with scores; a newer session may have portfolios only."""
    days = runtime.get_cache().get_or_load(
        (service, "newest"), lambda: service.list_leaderboard_dates(limit=1)
    )
    return days[0] if days else None


def find_player(service: EnhancedDatabaseService, username: str) -> User | None:
    """Return the player with this username, ignoring case, or None."""
    try:
        return service.get_user_by_username(username)
    except (UserNotFound, InvalidInput):
        wanted = username.casefold()
        found = search_players(service, username)
        return next((user for user in found if user.username.casefold() == wanted), None)


def search_players(service: EnhancedDatabaseService, prefix: str) -> tuple[User, ...]:
    """Return players whose username or name starts with a prefix; empty if the prefix cannot be a name."""
    try:
        return service.search_users(prefix, limit=MATCHES_SHOWN)
    except InvalidInput:
        return ()
