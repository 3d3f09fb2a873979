"""What the pages read, and from which service call.

Owns the choice of calls and their limits; answers are the service's own records. Never
shows anything and never holds SQL or a Redis command. The service checks a connection
out per call and caches, so an answer can be as old as its time-to-live (two minutes
for leaderboards, one minute for portfolios). Which sessions and categories there are
every view asks: these are kept for five seconds here.
"""

from datetime import date, timedelta

import msgspec

from core import EnhancedDatabaseService
from core.errors import InvalidInput, LeaderboardEntryNotFound, UserNotFound
from core.records import LeaderboardEntry, Portfolio, Quest, User
from dashboard import runtime
from dashboard.formats import KNOWN_CATEGORIES, Category, describe_category

SESSIONS_LISTED = 365
"""Sessions offered in the day filter: over a year of trading; older ones open by link."""

MATCHES_LISTED = 24
"""Players offered for a prefix: what fits on a phone without scrolling far."""

SUGGESTED_PLAYERS = 10


class PlayerRank(msgspec.Struct, frozen=True):
    """A player's place on one board; `entry` is None when the player is not on it."""

    category: Category
    entry: LeaderboardEntry | None


def is_database_up(service: EnhancedDatabaseService) -> bool:
    """Return whether the database answers, within about a second."""
    return service.health().database != "unhealthy"


def list_sessions(service: EnhancedDatabaseService, *, linked: date | None = None) -> tuple[date, ...]:
    """Return the newest sessions, newest first, and the one a link names if it exists."""
    sessions = _list_newest_sessions(service)
    if linked is None or linked in sessions or linked == date.max:
        return sessions
    found = service.list_session_dates(limit=1, before=linked + timedelta(days=1))
    return (*sessions, linked) if found == (linked,) else sessions


def list_categories(service: EnhancedDatabaseService, day: date) -> tuple[Category, ...]:
    """Return the known categories, then any other that has scores in this session."""
    known = [category.key for category in KNOWN_CATEGORIES]
    others = [key for key in _list_board_categories(service, day) if key not in known]
    return (*KNOWN_CATEGORIES, *(describe_category(key) for key in others))


def find_newest_board_day(service: EnhancedDatabaseService) -> date | None:
    """Return the newest session that has scores; later ones may have portfolios alone."""
    days = runtime.get_recent().get_or_load(
        (service, "newest"), lambda: service.list_leaderboard_dates(limit=1)
    )
    return days[0] if days else None


def _list_newest_sessions(service: EnhancedDatabaseService) -> tuple[date, ...]:
    return runtime.get_recent().get_or_load(
        (service, "sessions"), lambda: service.list_session_dates(limit=SESSIONS_LISTED)
    )


def _list_board_categories(service: EnhancedDatabaseService, day: date) -> tuple[str, ...]:
    return runtime.get_recent().get_or_load(
        (service, "categories", day), lambda: service.list_leaderboard_categories(day)
    )


def find_player(service: EnhancedDatabaseService, username: str) -> User | None:
    """Return the player of this name, upper and lower case alike, or None."""
    try:
        return service.get_user_by_username(username)
    except (UserNotFound, InvalidInput):
        wanted = username.casefold()
        found = search_players(service, username)
        return next((user for user in found if user.username.casefold() == wanted), None)


def search_players(service: EnhancedDatabaseService, prefix: str) -> tuple[User, ...]:
    """Return players whose name starts with the prefix; none for what cannot be a name."""
    try:
        return service.search_users(prefix, limit=MATCHES_LISTED)
    except InvalidInput:
        return ()


def suggest_players(service: EnhancedDatabaseService) -> tuple[str, ...]:
    """Return the names of the best players of the newest board."""
    day = find_newest_board_day(service)
    if day is None:
        return ()
    entries = service.get_leaderboard(KNOWN_CATEGORIES[0].key, day, SUGGESTED_PLAYERS)
    return tuple(entry.username for entry in entries)


def load_history(service: EnhancedDatabaseService, user: User, *, limit: int) -> tuple[Portfolio, ...]:
    """Return the player's newest sessions, newest first; never creates a portfolio."""
    return service.get_portfolio_history(user.id, limit=limit)


def load_quests(service: EnhancedDatabaseService, user: User) -> tuple[Quest, ...]:
    """Return the player's active quests, newest first."""
    quests = service.get_user_active_quests(user.id)
    return tuple(sorted(quests, key=lambda quest: quest.created_at, reverse=True))


def load_ranks(service: EnhancedDatabaseService, user: User, day: date) -> tuple[PlayerRank, ...]:
    """Return the player's place on every board of one session."""
    return tuple(
        PlayerRank(category, _find_entry(service, user, category.key, day))
        for category in list_categories(service, day)
    )


def _find_entry(
    service: EnhancedDatabaseService, user: User, category: str, day: date
) -> LeaderboardEntry | None:
    try:
        return service.get_user_rank(user.id, category, day)
    except LeaderboardEntryNotFound:
        return None
