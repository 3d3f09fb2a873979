"""What the leaderboards page reads from the service.

The first page of a leaderboard and its summary are at most two minutes old, periods five minutes. Earlier
ranks, trends and the list of sessions are kept for five seconds; everything else is read each time.
"""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID

import msgspec

from core import EnhancedDatabaseService
from core.errors import InvalidInput, LeaderboardEntryNotFound
from core.records import LeaderboardEntry, LeaderboardSummary, PeriodLeaderboard, PlayerScore
from dashboard import runtime
from dashboard.formats import Category

SESSIONS_LISTED = 365
"""Sessions offered in the filter, more than a year of trading; a link can open older ones."""

TREND_SESSIONS = 12
"""Sessions in a sparkline: its width does not show more."""

NEIGHBOURS = 5
"""Players shown above and below one player: this fits on a phone."""

PERIOD_PLAYERS = 1_000
"""Players listed and searched in a period: each page would add up all scores again."""

MATCHES_COUNTED = 1_000
"""How far the service counts matches of a search, and how many pages there are when ordered by name."""

ORDERS = {
    "Best first": "rank",
    "Lowest first": "-rank",
    "Name, A to Z": "username",
    "Name, Z to A": "-username",
}


class Selection(msgspec.Struct, frozen=True):
    """The values of the filters; `sessions` is 1 for the session of `day` alone."""

    category: Category
    day: date
    sessions: int
    compared_day: date | None
    rows: int
    order: str
    prefix: str


class ComparedEntries(msgspec.Struct, frozen=True):
    """Entries with the scores of their players in the compared session and in recent sessions.

    `trends` are oldest first.
    """

    entries: tuple[LeaderboardEntry, ...]
    before: dict[UUID, PlayerScore]
    trends: dict[UUID, tuple[Decimal, ...]]


def list_sessions(service: EnhancedDatabaseService, *, linked: date | None = None) -> tuple[date, ...]:
    """Return the newest sessions, newest first, and the one that a link names if it exists."""
    sessions = runtime.get_cache().get_or_load(
        (service, "sessions"), lambda: service.list_session_dates(limit=SESSIONS_LISTED)
    )
    if linked is None or linked in sessions or linked == date.max:
        return sessions
    found = service.list_session_dates(limit=1, before=linked + timedelta(days=1))
    return (*sessions, linked) if found == (linked,) else sessions


def find_previous_session(service: EnhancedDatabaseService, category: str, day: date) -> date | None:
    """Return the newest session before a day in which the category has scores."""
    found = _list_days_before(service, category, day)
    return found[0] if found else None


def _list_days_before(service: EnhancedDatabaseService, category: str, day: date) -> tuple[date, ...]:
    return runtime.get_cache().get_or_load(
        (service, "days", category, day),
        lambda: service.list_leaderboard_dates(category, limit=TREND_SESSIONS - 1, before=day),
    )


def find_summary(
    service: EnhancedDatabaseService, category: Category, day: date
) -> LeaderboardSummary | None:
    """Return the summary of a leaderboard, or None without entries; counts get bins of whole numbers."""
    least_width = Decimal(1) if category.unit == "count" else Decimal("0.01")
    return service.find_leaderboard_summary(category.key, day, least_width=least_width)


def count_players(service: EnhancedDatabaseService, selection: Selection, summary: LeaderboardSummary) -> int:
    """Return the number of players to page through; 0 for a prefix that cannot be a username.

    Ordered by name these are the first thousand: beyond, more letters are faster than more pages.
    """
    if not selection.prefix:
        by_name = selection.order.endswith("username")
        return min(summary.players, MATCHES_COUNTED) if by_name else summary.players
    try:
        return service.count_leaderboard(selection.category.key, selection.day, prefix=selection.prefix)
    except InvalidInput:
        return 0


def list_entries(
    service: EnhancedDatabaseService, selection: Selection, page: int
) -> tuple[LeaderboardEntry, ...]:
    """Return the entries of one page, the first page being number 1."""
    key = selection.category.key
    if page == 1 and not selection.prefix and selection.order == "rank":
        # the view that most visitors open, and the only one that is cached
        return service.get_leaderboard(key, selection.day, selection.rows)
    return service.list_leaderboard(
        key,
        selection.day,
        limit=selection.rows,
        offset=(page - 1) * selection.rows,
        order=selection.order,
        prefix=selection.prefix,
    )


def compare_entries(
    service: EnhancedDatabaseService, selection: Selection, entries: Sequence[LeaderboardEntry]
) -> ComparedEntries:
    """Return these entries with the earlier scores of their players."""
    players = tuple(entry.user_id for entry in entries)

    def load_before() -> dict[UUID, PlayerScore]:
        days = [selection.compared_day] if selection.compared_day else []
        rows = service.list_player_scores(players, selection.category.key, days, ranked=True)
        return {row.user_id: row for row in rows}

    before = runtime.get_cache().get_or_load(
        (service, "before", selection.category.key, selection.compared_day, players), load_before
    )
    return ComparedEntries(tuple(entries), before, load_trends(service, selection, players))


def load_trends(
    service: EnhancedDatabaseService, selection: Selection, players: Iterable[UUID]
) -> dict[UUID, tuple[Decimal, ...]]:
    """Return the scores of players in the last sessions, oldest first."""
    key, wanted = selection.category.key, tuple(players)

    def load() -> dict[UUID, tuple[Decimal, ...]]:
        days = (selection.day, *_list_days_before(service, key, selection.day))
        trends: dict[UUID, list[Decimal]] = {}
        for row in service.list_player_scores(wanted, key, days):
            trends.setdefault(row.user_id, []).append(row.score)
        return {user_id: tuple(scores) for user_id, scores in trends.items()}

    return runtime.get_cache().get_or_load((service, "trends", key, selection.day, wanted), load)


def find_neighbours(
    service: EnhancedDatabaseService, selection: Selection, found: Sequence[LeaderboardEntry]
) -> tuple[LeaderboardEntry, tuple[LeaderboardEntry, ...]] | None:
    """Return the player that a search means, and the entries around that player.

    A search means the player whose whole username was typed, or the only match; otherwise None.
    """
    wanted = selection.prefix.casefold()
    exact = [entry for entry in found if entry.username.casefold() == wanted]
    matches = exact or list(found)
    if not wanted or len(matches) != 1:
        return None
    try:
        around = service.get_leaderboard_around(
            matches[0].user_id, selection.category.key, selection.day, radius=NEIGHBOURS
        )
    except LeaderboardEntryNotFound:
        return None
    return matches[0], around


def load_period(service: EnhancedDatabaseService, selection: Selection) -> PeriodLeaderboard:
    """Return the best players over the selected sessions."""
    return service.get_period_leaderboard(
        selection.category.key, selection.day, sessions=selection.sessions, limit=PERIOD_PLAYERS
    )
