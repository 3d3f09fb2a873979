"""What the leaderboards page reads, and from which service call.

Owns the choice of calls and their limits; answers are the service's own records. Never shows
anything and never holds SQL. The first page of a board and its figures are at most two
minutes old, periods five; where players stood before, their trends and which sessions a
board has are kept for five seconds; everything else is as of now.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from uuid import UUID

import msgspec

from core import EnhancedDatabaseService
from core.errors import InvalidInput, LeaderboardEntryNotFound
from core.records import BoardSummary, LeaderboardEntry, PeriodBoard, PlayerScore
from dashboard import runtime
from dashboard.formats import Category

TREND_SESSIONS = 12
"""Sessions of a sparkline: more are no longer told apart at its width."""

NEIGHBOURS = 5
"""Players shown above and below one: what fits on a phone with the player in the middle."""

PERIOD_PLAYERS = 1_000
"""Players listed and searched of a period: every page would add all scores up again."""

MATCHES_COUNTED = 1_000
"""How far the service counts the matches of a search, and how far pages by name go."""

ORDERS = {
    "Best first": "rank",
    "Lowest first": "-rank",
    "Name, A to Z": "username",
    "Name, Z to A": "-username",
}


class View(msgspec.Struct, frozen=True):
    """What the leaderboards page is asked for; `sessions` is 1 for the session of `day` alone."""

    category: Category
    day: date
    sessions: int
    versus: date | None
    rows: int
    order: str
    prefix: str


class Page(msgspec.Struct, frozen=True):
    """One page of a board with where its players stood before.

    `before` are their scores in the session compared with, `trends` those of the last sessions,
    oldest first.
    """

    entries: tuple[LeaderboardEntry, ...]
    before: dict[UUID, PlayerScore]
    trends: dict[UUID, tuple[Decimal, ...]]


def find_session_before(service: EnhancedDatabaseService, category: str, day: date) -> date | None:
    """Return the newest session before a day in which the category has scores."""
    found = _list_days_before(service, category, day)
    return found[0] if found else None


def _list_days_before(service: EnhancedDatabaseService, category: str, day: date) -> tuple[date, ...]:
    return runtime.get_recent().get_or_load(
        (service, "days", category, day),
        lambda: service.list_leaderboard_dates(category, limit=TREND_SESSIONS - 1, before=day),
    )


def find_summary(service: EnhancedDatabaseService, category: Category, day: date) -> BoardSummary | None:
    """Return a board in figures; counts get bins of whole numbers."""
    least = Decimal(1) if category.unit == "count" else Decimal("0.01")
    return service.find_leaderboard_summary(category.key, day, least_width=least)


def count_players(service: EnhancedDatabaseService, view: View, summary: BoardSummary) -> int:
    """Return how many players the view pages through; none for what cannot be a username.

    By name it is the first thousand: more letters lead further than the hundredth page.
    """
    if not view.prefix:
        by_name = view.order.endswith("username")
        return min(summary.players, MATCHES_COUNTED) if by_name else summary.players
    try:
        return service.count_leaderboard(view.category.key, view.day, prefix=view.prefix)
    except InvalidInput:
        return 0


def load_entries(service: EnhancedDatabaseService, view: View, number: int) -> tuple[LeaderboardEntry, ...]:
    """Return who is on one page, the first being number 1."""
    key = view.category.key
    if number == 1 and not view.prefix and view.order == "rank":
        # the view that nearly everybody opens, and the only one that is cached
        return service.get_leaderboard(key, view.day, view.rows)
    return service.list_leaderboard(
        key,
        view.day,
        limit=view.rows,
        offset=(number - 1) * view.rows,
        order=view.order,
        prefix=view.prefix,
    )


def compare_entries(
    service: EnhancedDatabaseService, view: View, entries: Sequence[LeaderboardEntry]
) -> Page:
    """Return a page of these entries with where their players stood before."""
    players = tuple(entry.user_id for entry in entries)
    before = runtime.get_recent().get_or_load(
        (service, "before", view.category.key, view.versus, players),
        lambda: _load_scores(service, view, players),
    )
    return Page(tuple(entries), before, load_trends(service, view, players))


def _load_scores(
    service: EnhancedDatabaseService, view: View, players: Sequence[UUID]
) -> dict[UUID, PlayerScore]:
    days = [view.versus] if view.versus else []
    rows = service.list_player_scores(players, view.category.key, days, ranked=True)
    return {row.user_id: row for row in rows}


def load_trends(
    service: EnhancedDatabaseService, view: View, players: Iterable[UUID]
) -> dict[UUID, tuple[Decimal, ...]]:
    """Return the scores of players in the last sessions, oldest first."""
    wanted = tuple(players)
    return runtime.get_recent().get_or_load(
        (service, "trends", view.category.key, view.day, wanted),
        lambda: _load_trends(service, view, wanted),
    )


def _load_trends(
    service: EnhancedDatabaseService, view: View, players: Sequence[UUID]
) -> dict[UUID, tuple[Decimal, ...]]:
    key = view.category.key
    days = (view.day, *_list_days_before(service, key, view.day))
    trends: dict[UUID, list[Decimal]] = {}
    for row in service.list_player_scores(players, key, days):
        trends.setdefault(row.user_id, []).append(row.score)
    return {user_id: tuple(scores) for user_id, scores in trends.items()}


def find_around(
    service: EnhancedDatabaseService, view: View, found: Sequence[LeaderboardEntry]
) -> tuple[LeaderboardEntry, tuple[LeaderboardEntry, ...]] | None:
    """Return the one player that a search means, and who stands around; None when it is not one.

    That is whose username was typed whole, or the only one found.
    """
    wanted = view.prefix.casefold()
    exact = [entry for entry in found if entry.username.casefold() == wanted]
    chosen = exact or list(found)
    if not wanted or len(chosen) != 1:
        return None
    try:
        around = service.get_leaderboard_around(
            chosen[0].user_id, view.category.key, view.day, radius=NEIGHBOURS
        )
    except LeaderboardEntryNotFound:
        return None
    return chosen[0], around


def load_period(service: EnhancedDatabaseService, view: View) -> PeriodBoard:
    """Return the best players of the view's sessions."""
    return service.get_period_leaderboard(
        view.category.key, view.day, sessions=view.sessions, limit=PERIOD_PLAYERS
    )
