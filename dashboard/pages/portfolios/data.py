"""Reads the values of the Portfolios page from the service. Each `load_` function loads one section.

The market's returns are at most 30 seconds out of date, the leader at most two minutes, active quests at most
three minutes, and gains of finished sessions at most five minutes. A player's sessions and ranks are read
each time. No function creates a portfolio.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import Final, Protocol, TypeVar
from uuid import UUID

import msgspec

from core import EnhancedDatabaseService
from core.errors import LeaderboardEntryNotFound, UserNotFound
from core.records import (
    LeaderboardEntry,
    MarketReturn,
    PlayerGains,
    PlayerScore,
    Portfolio,
    Position,
    Quest,
    User,
)
from core.service.argument_checks import MAX_LIMIT
from core.service.leaderboard_reports import MAX_SCORES
from core.service.market import MAX_MARKET_DAYS
from core.service.portfolios import add_gains
from dashboard import exact_ranks
from dashboard.categories import KNOWN_CATEGORIES, Category
from dashboard.data import find_newest_leaderboard_day, list_categories
from dashboard.formats import LAST_SESSION

WINDOWS: Final = {LAST_SESSION: 1, "7 days": 7, "30 days": 30, "90 days": 90, "1 year": 365, "All": None}
"""Length in days of each window that the page offers; None for all time. A window ends today (UTC).

LAST_SESSION is an exception: its one day is the day of the newest session that the player has played.
"""

ALL = "All"

MAX_SESSIONS = MAX_SCORES
"""Maximum number of sessions read for a player: one call of the service returns at most this many ranks."""

SUGGESTED_PLAYERS = 10

GAP = timedelta(days=31)
"""If a pause between two sessions is longer than this, it splits a player's history into two spans."""

SPANS_READ = 12
"""Maximum number of spans of a history, the newest ones, for which the market's returns are read.

Each span needs one SQL statement.
"""

_DAY = timedelta(days=1)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class LoadPage(Protocol[T_co]):
    """A method of the service that lists rows of sessions page by page, newest first."""

    def __call__(self, *, limit: int, before: date) -> tuple[T_co, ...]:
        """Return up to `limit` rows of the sessions before the day `before`, newest first."""


class Player(msgspec.Struct, frozen=True):
    """A player and the player's sessions in a window.

    `newest` is the newest session that the player has played; it can be before the window. `history` are the
    sessions that the player has played in the window, newest first. `since` is the first day of the window
    or, if it is later, the day on which the player joined. `held` are all sessions of the game since then,
    oldest first. The session of `today` is open.
    """

    user: User
    window: str
    today: date
    since: date
    newest: Portfolio
    history: tuple[Portfolio, ...]
    held: tuple[date, ...]

    @property
    def is_one_session(self) -> bool:
        """Whether the window is `LAST_SESSION`, the newest session only."""
        return self.window == LAST_SESSION

    @property
    def is_open(self) -> bool:
        """Whether `newest` is still open."""
        return self.newest.session_date >= self.today

    @property
    def finished(self) -> tuple[Portfolio, ...]:
        """The finished sessions of `history`, newest first."""
        return tuple(row for row in self.history if row.session_date < self.today)

    @property
    def missed(self) -> tuple[date, ...]:
        """The finished sessions of the window that the player did not play, oldest first."""
        played = {row.session_date for row in self.history}
        return tuple(day for day in self.held if day < self.today and day not in played)


class Equity(msgspec.Struct, frozen=True):
    """The returns of the market and the best player, to compare with a player's equity.

    `leader` is the best player of the player's newest session; None if the player is the leader or if the
    session has no leader.
    """

    market: tuple[MarketReturn, ...]
    leader: User | None
    leader_history: tuple[Portfolio, ...]


class Gains(msgspec.Struct, frozen=True):
    """A player's gains by symbol, in the newest session and in the whole window.

    `positions` are the positions in the newest session. `market` has the market's return in each session that
    the player has played in the window.
    """

    newest: PlayerGains
    window: PlayerGains
    positions: tuple[Position, ...]
    market: tuple[MarketReturn, ...]


class PlayerRank(msgspec.Struct, frozen=True):
    """A player's entry on a leaderboard (None without a score), and the number of players on it."""

    category: Category
    entry: LeaderboardEntry | None
    players: int


class Suggestions(msgspec.Struct, frozen=True):
    """The usernames that the page suggests, and whether the game has any session."""

    names: tuple[str, ...]
    has_sessions: bool


def load_suggestions(service: EnhancedDatabaseService) -> Suggestions:
    """Return the best players of the newest session with scores, as suggestions for the search."""
    day = find_newest_leaderboard_day(service)
    leaders = list_leaders(service, day, SUGGESTED_PLAYERS) if day else ()
    names = tuple(entry.username for entry in leaders)
    return Suggestions(names, bool(names) or bool(service.list_session_dates(limit=1)))


def list_leaders(service: EnhancedDatabaseService, day: date, limit: int) -> tuple[LeaderboardEntry, ...]:
    """Return the best players of a session by daily return, in the same order as the Leaderboards page."""
    source = exact_ranks.find_source(service, KNOWN_CATEGORIES[0], day)
    return service.get_leaderboard(source.rank_key, day, limit)


def load_players(
    service: EnhancedDatabaseService, user: User, rival: User | None, window: str
) -> tuple[Player | None, Player | None]:
    """Return the player and the rival with the sessions of a window; see `load_player`."""
    return load_player(service, user, window), load_player(service, rival, window) if rival else None


def load_player(service: EnhancedDatabaseService, user: User, window: str) -> Player | None:
    """Return a player with the sessions of a window, or None if the player has never played."""
    today = datetime.now(UTC).date()
    if window == LAST_SESSION:
        newest = history = service.get_portfolio_history(user.id, limit=1, before=today + _DAY)
    else:
        history = _list_history(service, user.id, find_first_day(window, today), today)
        newest = history[:1] or service.get_portfolio_history(user.id, limit=1, before=today + _DAY)
    if not newest:
        return None
    first = newest[0].session_date if window == LAST_SESSION else find_first_day(window, today)
    joined = user.created_at.astimezone(UTC).date()
    since = max(first, min(joined, history[-1].session_date) if history else joined)
    return Player(user, window, today, since, newest[0], history, _list_held(service, since, today))


def find_first_day(window: str, today: date) -> date:
    """Return the first day of the window that ends on `today`; `date.min` for all time."""
    days = WINDOWS[window]
    return date.min if days is None else today - timedelta(days=days - 1)


def _list_history(
    service: EnhancedDatabaseService, user_id: UUID, first: date, last: date
) -> tuple[Portfolio, ...]:
    """Return a player's sessions from `first` to `last`, newest first."""
    load = partial(service.get_portfolio_history, user_id)
    return tuple(_list_back(load, attrgetter("session_date"), first, last))


def _list_held(service: EnhancedDatabaseService, first: date, last: date) -> tuple[date, ...]:
    """Return the sessions of the game from `first` to `last`, oldest first."""
    return tuple(reversed(_list_back(service.list_session_dates, lambda day: day, first, last)))


def _list_back(load: LoadPage[T], get_day: Callable[[T], date], first: date, last: date) -> list[T]:
    """Return the rows from `first` to `last`, newest first. Calls `load` for each page of rows."""
    found: list[T] = []
    before = last + _DAY
    while len(found) < MAX_SESSIONS and before > first:
        limit = min(MAX_LIMIT, (before - first).days)
        page = load(limit=limit, before=before)
        found += (row for row in page if get_day(row) >= first)
        if len(page) < limit:
            break
        before = get_day(page[-1])
    return found


def load_quests(service: EnhancedDatabaseService, user: User) -> list[Quest]:
    """Return the player's active quests, newest first."""
    quests = service.get_user_active_quests(user.id)
    return sorted(quests, key=lambda quest: quest.created_at, reverse=True)


def load_ranks(service: EnhancedDatabaseService, user: User, day: date) -> tuple[PlayerRank, ...]:
    """Return the player's rank on every leaderboard of a session, as on the Leaderboards page."""

    def find_rank(category: Category) -> PlayerRank:
        source = exact_ranks.find_source(service, category, day)
        try:
            ranked = service.get_user_rank(user.id, source.rank_key, day)
        except LeaderboardEntryNotFound:
            return PlayerRank(category, None, 0)
        [entry] = source.replace_scores(service, [ranked])
        return PlayerRank(category, entry, service.count_leaderboard(source.rank_key, day))

    return tuple(find_rank(category) for category in list_categories(service, day))


def load_rank_history(
    service: EnhancedDatabaseService, player: Player, category: Category
) -> tuple[PlayerScore, ...]:
    """Return the player's score and rank in each session of `player.history`, oldest first."""
    days = [row.session_date for row in player.history]
    return exact_ranks.list_rank_history(service, player.user.id, category, days)


def load_equity(service: EnhancedDatabaseService, player: Player) -> Equity:
    """Return the market's returns in the player's sessions, and the leader of the player's newest session.

    The best player over the whole window is not shown: in a large game, finding that player takes seconds.
    """
    market = list_market_returns(service, player.history)
    day = player.newest.session_date
    leaders = list_leaders(service, day, 1)
    if not leaders or leaders[0].user_id == player.user.id:
        return Equity(market, None, ())
    try:
        leader = service.get_user_by_id(leaders[0].user_id)
    except UserNotFound:
        return Equity(market, None, ())
    first = find_first_day(player.window, player.today)
    return Equity(market, leader, _list_history(service, leader.id, first, day))


def load_gains(service: EnhancedDatabaseService, player: Player) -> Gains:
    """Return the player's gain of each symbol. `player.history` must not be empty."""
    user_id, day, first = player.user.id, player.newest.session_date, player.history[-1].session_date
    newest = service.get_player_gains(user_id, day, day)
    # read the newest session once, and use it for `newest` and as part of `window`: the gains of the session
    # and of the window then agree
    before = [service.get_player_gains(user_id, first, day - _DAY)] if first < day else []
    return Gains(
        newest=newest,
        window=add_gains([*before, newest]),
        positions=service.list_positions([user_id], day),
        market=list_market_returns(service, player.history),
    )


def list_market_returns(
    service: EnhancedDatabaseService, history: Sequence[Portfolio]
) -> tuple[MarketReturn, ...]:
    """Return the market's return in each session of `history`, oldest first. `history` is newest first."""
    days = [row.session_date for row in reversed(history)]
    played = set(days)
    return tuple(
        found
        for first, last in split_days(days)
        for found in service.get_market_returns(first, last)
        if found.day in played
    )


def split_days(days: Sequence[date]) -> tuple[tuple[date, date], ...]:
    """Split days (oldest first) into spans of first and last day, and return the newest SPANS_READ spans.

    A pause longer than GAP begins a new span: years without a session can lie between a replay of old prices
    and the live market. No span is longer than the service reads at once (MAX_MARKET_DAYS).
    """
    spans: list[tuple[date, date]] = []
    for day in days:
        first, last = spans[-1] if spans else (date.min, date.min)
        if day - last <= GAP and (day - first).days < MAX_MARKET_DAYS:
            spans[-1] = (first, day)
        else:
            spans.append((day, day))
    return tuple(spans[-SPANS_READ:])
