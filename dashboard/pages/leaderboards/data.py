"""Reads the values of the Leaderboards page from the service.

The first page of a leaderboard and its summary are at most two minutes out of date. A leaderboard over a
period is at most five minutes out of date. Ranks in the compared session, trends and the list of sessions are
cached for five seconds. All other values are read each time.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TypeVar
from uuid import UUID

import msgspec

from core import EnhancedDatabaseService
from core.errors import InvalidInput, LeaderboardEntryNotFound
from core.records import (
    LeaderboardEntry,
    LeaderboardSummary,
    PeriodEntry,
    PeriodLeaderboard,
    PlayerScore,
)
from dashboard import exact_ranks, runtime
from dashboard.categories import Category
from dashboard.data import is_open_session
from dashboard.exact_ranks import ScoreSource

T = TypeVar("T", LeaderboardEntry, PeriodEntry)

SESSIONS_LISTED = 365
"""Number of sessions that the filter offers: more than a year of trading. A link can open older sessions."""

TREND_SESSIONS = 12
"""Maximum number of sessions in a sparkline: it is too narrow for more."""

NEIGHBOURS = 5
"""Players shown above and below the searched player, so that all fit on a phone."""

PERIOD_PLAYERS = 1_000
"""Maximum number of players on a leaderboard over a period.

One call reads them all, because each call sums the scores of all players again.
"""

MATCHES_COUNTED = 1_000
"""Maximum number of matching players that the service counts in a search.

A leaderboard that is sorted by name also lists at most this many players, even without a search.
"""

ORDERS = {
    "Best first": "rank",
    "Lowest first": "-rank",
    "Name, A to Z": "username",
    "Name, Z to A": "-username",
}


class Selection(msgspec.Struct, frozen=True):
    """The values of the filters. `sessions` is the number of sessions up to `day`, and 1 for `day` alone."""

    category: Category
    day: date
    sessions: int
    compared_day: date | None
    rows: int
    order: str
    prefix: str


class ComparedEntries(msgspec.Struct, frozen=True):
    """Entries of a leaderboard, with scores of the same players in other sessions, by user id.

    `before` has the scores in the compared session, and `trends` the scores in recent sessions, oldest first.
    `players` and `players_before` are the sizes of the leaderboard and of the compared leaderboard. `values`
    are the total values of the entries if total value gives the ranks; otherwise it is empty.
    """

    entries: tuple[LeaderboardEntry, ...]
    before: dict[UUID, PlayerScore]
    trends: dict[UUID, tuple[Decimal, ...]]
    players: int = 0
    players_before: int = 0
    values: tuple[Decimal, ...] = ()


class Summaries(msgspec.Struct, frozen=True):
    """The summaries of the selected and of the compared leaderboard. Without scores, a summary is None."""

    shown: LeaderboardSummary | None
    compared: LeaderboardSummary | None
    is_open: bool


class Page(msgspec.Struct, frozen=True):
    """Page `number` of the `pages` of a leaderboard; all pages together have `total` players.

    If a search finds exactly one player, `player` is the player's entry, and `around` are the entries around
    it. Otherwise both are None.
    """

    total: int
    pages: int
    number: int
    best: Decimal
    is_open: bool
    rows: ComparedEntries
    player: LeaderboardEntry | None = None
    around: ComparedEntries | None = None


class PeriodPage(msgspec.Struct, frozen=True):
    """Page `number` of the `pages` of a leaderboard over a period. For `trends`, see `ComparedEntries`."""

    period: PeriodLeaderboard
    pages: int
    number: int
    entries: tuple[PeriodEntry, ...]
    trends: dict[UUID, tuple[Decimal, ...]]
    is_open: bool


def list_sessions(service: EnhancedDatabaseService, *, linked: date | None = None) -> tuple[date, ...]:
    """Return the newest sessions, newest first. If `linked` is an older session, it is added at the end."""
    sessions = runtime.get_cache().get_or_load(
        (service, "sessions"), lambda: service.list_session_dates(limit=SESSIONS_LISTED)
    )
    if linked is None or linked in sessions or linked == date.max:
        return sessions
    found = service.list_session_dates(limit=1, before=linked + timedelta(days=1))
    return (*sessions, linked) if found == (linked,) else sessions


def find_previous_session(service: EnhancedDatabaseService, category: str, day: date) -> date | None:
    """Return the newest session before `day` in which the category has scores, or None."""
    found = _list_days_before(service, category, day)
    return found[0] if found else None


def _list_days_before(service: EnhancedDatabaseService, category: str, day: date) -> tuple[date, ...]:
    return runtime.get_cache().get_or_load(
        (service, "days", category, day),
        lambda: service.list_leaderboard_dates(category, limit=TREND_SESSIONS - 1, before=day),
    )


def load_summaries(service: EnhancedDatabaseService, selection: Selection) -> Summaries:
    """Return the summaries of the selected and of the compared leaderboard."""
    compared = selection.compared_day
    return Summaries(
        find_summary(service, selection.category, selection.day),
        find_summary(service, selection.category, compared) if compared else None,
        is_open=is_open_session(selection.day, datetime.now(UTC)),
    )


def find_summary(
    service: EnhancedDatabaseService, category: Category, day: date
) -> LeaderboardSummary | None:
    """Return the summary of a leaderboard, or None if it has no entries.

    If the scores are counts, the bins of the distribution have whole numbers as edges.
    """
    source = exact_ranks.find_source(service, category, day)
    least_width = Decimal(1) if category.unit == "count" else Decimal("0.01")
    return source.find_summary(service, least_width=least_width)


def load_page(service: EnhancedDatabaseService, selection: Selection, number: int) -> Page | None:
    """Return page `number` of a leaderboard, or None if the leaderboard has no entries.

    If there is no page with this number, returns the first page.
    """
    source = exact_ranks.find_source(service, selection.category, selection.day)
    players = service.count_leaderboard(source.rank_key, selection.day)
    leaders = source.replace_scores(service, service.get_leaderboard(source.rank_key, selection.day, 1))
    if not leaders:
        return None
    total = count_players(service, source, selection, players)
    pages = max(1, -(-total // selection.rows))
    number = number if number <= pages else 1
    entries = list_entries(service, source, selection, number)
    found = find_neighbours(service, source, selection, entries)
    return Page(
        total=total,
        pages=pages,
        number=number,
        best=leaders[0].score,
        is_open=is_open_session(selection.day, datetime.now(UTC)),
        rows=compare_entries(service, selection, source, entries, players=players),
        player=found[0] if found else None,
        around=compare_entries(service, selection, source, found[1], players=players) if found else None,
    )


def count_players(
    service: EnhancedDatabaseService, source: ScoreSource, selection: Selection, players: int
) -> int:
    """Return how many players all pages together list; 0 if no username can have the prefix.

    `players` is the size of the leaderboard. For a leaderboard sorted by name, the result is at most
    MATCHES_COUNTED: for a name after these, a visitor can search for its first letters.
    """
    if not selection.prefix:
        return min(players, MATCHES_COUNTED) if selection.order.endswith("username") else players
    try:
        return service.count_leaderboard(source.rank_key, selection.day, prefix=selection.prefix)
    except InvalidInput:
        return 0


def list_entries(
    service: EnhancedDatabaseService, source: ScoreSource, selection: Selection, page: int
) -> tuple[LeaderboardEntry, ...]:
    """Return the entries of one page, read from leaderboard `source.rank_key`. The first page is 1."""
    if page == 1 and not selection.prefix and selection.order == "rank":
        # most visitors open the first page, and `get_leaderboard` caches it; `list_leaderboard` is uncached
        return service.get_leaderboard(source.rank_key, selection.day, selection.rows)
    try:
        return service.list_leaderboard(
            source.rank_key,
            selection.day,
            limit=selection.rows,
            offset=(page - 1) * selection.rows,
            order=selection.order,
            prefix=selection.prefix,
        )
    except InvalidInput:
        # no username can have the prefix
        return ()


def compare_entries(
    service: EnhancedDatabaseService,
    selection: Selection,
    source: ScoreSource,
    found: Sequence[LeaderboardEntry],
    *,
    players: int,
) -> ComparedEntries:
    """Return the entries `found` with scores of the category, and the players' scores in other sessions."""
    user_ids = tuple(entry.user_id for entry in found)
    entries, day = source.replace_scores(service, found), selection.compared_day
    values = tuple(entry.score for entry in found) if source.is_by_value else ()
    trends = load_trends(service, selection, user_ids)
    if day is None:
        return ComparedEntries(entries, {}, trends, players, values=values)

    def load() -> tuple[dict[UUID, PlayerScore], int]:
        earlier = exact_ranks.find_source(service, selection.category, day)
        return earlier.list_scores(service, user_ids), service.count_leaderboard(earlier.rank_key, day)

    before, players_before = runtime.get_cache().get_or_load(
        (service, "before", selection.category.key, day, user_ids), load
    )
    return ComparedEntries(entries, before, trends, players, players_before, values)


def load_trends(
    service: EnhancedDatabaseService, selection: Selection, players: Iterable[UUID]
) -> dict[UUID, tuple[Decimal, ...]]:
    """Return the scores of each player in the last TREND_SESSIONS sessions, oldest first, by user id."""
    key, wanted = selection.category.key, tuple(players)

    def load() -> dict[UUID, tuple[Decimal, ...]]:
        days = (selection.day, *_list_days_before(service, key, selection.day))
        trends: dict[UUID, list[Decimal]] = {}
        for row in service.list_player_scores(wanted, key, days):
            trends.setdefault(row.user_id, []).append(row.score)
        return {user_id: tuple(found) for user_id, found in trends.items()}

    return runtime.get_cache().get_or_load((service, "trends", key, selection.day, wanted), load)


def find_neighbours(
    service: EnhancedDatabaseService,
    source: ScoreSource,
    selection: Selection,
    found: Sequence[LeaderboardEntry],
) -> tuple[LeaderboardEntry, tuple[LeaderboardEntry, ...]] | None:
    """Return the entry of the searched player, and the entries around it.

    The searched player is the one whose full username was typed, or the only match. Returns None without a
    search, and if the search has no match or several matches.
    """
    wanted = selection.prefix.casefold()
    exact = [entry for entry in found if entry.username.casefold() == wanted]
    matches = exact or list(found)
    if not wanted or len(matches) != 1:
        return None
    try:
        around = service.get_leaderboard_around(
            matches[0].user_id, source.rank_key, selection.day, radius=NEIGHBOURS
        )
    except LeaderboardEntryNotFound:
        return None
    return matches[0], around


def load_period_page(service: EnhancedDatabaseService, selection: Selection, number: int) -> PeriodPage:
    """Return page `number` of the best players over the selected sessions.

    If there is no page with this number, returns the first page.
    """
    period = load_period(service, selection)
    found = list(filter_by_name(period.entries, selection.prefix))
    pages = max(1, -(-len(found) // selection.rows))
    number = number if number <= pages else 1
    entries = tuple(found[(number - 1) * selection.rows : number * selection.rows])
    trends = load_trends(service, selection, [entry.user_id for entry in entries])
    is_open = bool(period.days) and is_open_session(period.days[0], datetime.now(UTC))
    return PeriodPage(period, pages, number, entries, trends, is_open=is_open)


def load_period(service: EnhancedDatabaseService, selection: Selection) -> PeriodLeaderboard:
    """Return the best players over the selected sessions, with their mean scores.

    Daily returns are ranked by total value if `find_source` allows it for the first and the last session.
    """
    category, sessions = selection.category, selection.sessions
    before = selection.day + timedelta(days=1)
    days = service.list_leaderboard_dates(category.key, limit=sessions, before=before)
    sources = [exact_ranks.find_source(service, category, day) for day in (*days[:1], *days[-1:])]
    is_by_value = bool(sources) and all(source.is_by_value for source in sources)
    source = sources[0] if is_by_value else ScoreSource(selection.day, category.key, category.key)
    period = service.get_period_leaderboard(
        source.rank_key, selection.day, sessions=sessions, limit=PERIOD_PLAYERS, base=source.base
    )
    return source.convert_period(period)


def filter_by_name(entries: Iterable[T], prefix: str) -> Iterator[T]:
    """Yield the entries whose username starts with the prefix. Upper and lower case do not matter."""
    wanted = prefix.lower()
    return (entry for entry in entries if entry.username.lower().startswith(wanted))
