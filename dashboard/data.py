"""Reads that several pages share: players, the newest session with scores, and the leaderboard categories.

Every function reads from the service. The newest session and the categories are needed each time a page is
shown, so they are also cached here and can be five seconds old.
"""

from datetime import UTC, date, datetime

from core import EnhancedDatabaseService
from core.errors import InvalidInput, UserNotFound
from core.records import User
from dashboard import runtime
from dashboard.categories import KNOWN_CATEGORIES, Category, describe_category

MATCHES_SHOWN = 24
"""Maximum number of players that a search returns: as many as a phone shows with little scrolling."""


def is_open_session(day: date, now: datetime) -> bool:
    """Return whether the session of `day` is still open. A session closes at the end of its day (UTC)."""
    return day >= now.astimezone(UTC).date()


def list_categories(service: EnhancedDatabaseService, day: date) -> tuple[Category, ...]:
    """Return KNOWN_CATEGORIES, then all other categories with scores in the session of `day`."""
    found = runtime.get_cache().get_or_load(
        (service, "categories", day), lambda: service.list_leaderboard_categories(day)
    )
    known = [category.key for category in KNOWN_CATEGORIES]
    return (*KNOWN_CATEGORIES, *(describe_category(key) for key in found if key not in known))


def find_newest_leaderboard_day(service: EnhancedDatabaseService) -> date | None:
    """Return the day of the newest session with scores, or None.

    There can be a newer session that has portfolios but no scores yet.
    """
    days = runtime.get_cache().get_or_load(
        (service, "newest"), lambda: service.list_leaderboard_dates(limit=1)
    )
    return days[0] if days else None


def find_player(service: EnhancedDatabaseService, username: str) -> User | None:
    """Return the player with this username, or None. Upper and lower case do not matter."""
    try:
        return service.get_user_by_username(username)
    except (UserNotFound, InvalidInput):
        wanted = username.casefold()
        found = search_players(service, username)
        return next((user for user in found if user.username.casefold() == wanted), None)


def search_players(service: EnhancedDatabaseService, prefix: str) -> tuple[User, ...]:
    """Return up to MATCHES_SHOWN players whose username or name starts with the prefix.

    A prefix that no name can have, such as one that is too long, returns an empty tuple.
    """
    try:
        return service.search_users(prefix, limit=MATCHES_SHOWN)
    except InvalidInput:
        return ()
