"""A player's view of the service: calls on the player's own data, and on public data.

Owns the list of calls that a player may make. Each method of the view calls the service's method of the same
name for the player; `get_profile` calls `get_user_by_id`. No method has a parameter for the id of a user, so
a cached value that a method returns is the player's own or public. The statements run under the database's
player role, which sees only the player's rows and public rows.

No method is a generator: other code of the thread would run as the player between two yielded rows.
"""

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from uuid import UUID

from core.database.identity import Identity, change_identity, restore_identity
from core.records import (
    Candle,
    LeaderboardEntry,
    MarketEvent,
    PlayerGains,
    Portfolio,
    Position,
    Quest,
    Sparkline,
    Tick,
    Trade,
    User,
)

if TYPE_CHECKING:
    from core.service.service import EnhancedDatabaseService

P = ParamSpec("P")
T = TypeVar("T")


class PlayerView:
    """The calls of the service that one player may make; `EnhancedDatabaseService.as_user` returns it.

    Arguments, answers, errors, and the greatest age of an answer are those of the service's calls with the
    same names. Rows of other players are not visible, except public rows such as leaderboard entries. Thread
    safe. A call inside the service's `transaction()` raises `TransactionMisused`.
    """

    __slots__ = ("_identity", "_service", "_user_id")

    def __init__(self, service: "EnhancedDatabaseService", user_id: UUID, identity: Identity) -> None:
        self._service = service
        self._user_id = user_id
        self._identity = identity

    @property
    def user_id(self) -> UUID:
        """The id of the player."""
        return self._user_id

    def _call(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Call a method of the service with the identity of the player."""
        # Not `with acting_as(...)`: its overhead is a third of the time of a near-cache hit.
        before = change_identity(self._identity)
        try:
            return call(*args, **options)
        finally:
            restore_identity(before)

    # -- profile ------------------------------------------------------------------------------

    def get_profile(self) -> User:
        """Return the profile of the player, as `get_user_by_id` does."""
        return self._call(self._service.get_user_by_id, self._user_id)

    def update_user_profile(self, **changes: Any) -> User:
        """Change username, name, email or preferences of the player. Return the new profile."""
        return self._call(self._service.update_user_profile, self._user_id, **changes)

    def touch_last_active(self) -> None:
        """Set `last_active` of the player to the current time."""
        self._call(self._service.touch_last_active, self._user_id)

    # -- portfolios ---------------------------------------------------------------------------

    def find_portfolio(self, session_date: date | None = None) -> Portfolio | None:
        """Return the player's portfolio of a session (None: today's), or None if there is none."""
        return self._call(self._service.find_portfolio, self._user_id, session_date)

    def get_portfolio(self, session_date: date | None = None) -> Portfolio:
        """Return the player's portfolio of a session (None: today's), which must exist."""
        return self._call(self._service.get_portfolio, self._user_id, session_date)

    def get_current_portfolio(self, session_date: date | None = None) -> Portfolio:
        """Return the player's portfolio of a session (None: today's). Creates it if there is none."""
        return self._call(self._service.get_current_portfolio, self._user_id, session_date)

    def get_portfolio_history(self, *, limit: int = 100, before: date | None = None) -> tuple[Portfolio, ...]:
        """Return up to `limit` of the player's portfolios, newest session first."""
        return self._call(self._service.get_portfolio_history, self._user_id, limit=limit, before=before)

    def update_portfolio_value(
        self, session_date: date | None, total_value: Decimal, day_change: Decimal
    ) -> Portfolio:
        """Set the value of the player's portfolio, and its change in the session. Return the portfolio."""
        return self._call(
            self._service.update_portfolio_value, self._user_id, session_date, total_value, day_change
        )

    def list_positions(self, session_date: date | None = None) -> tuple[Position, ...]:
        """Return the player's positions in a session (None: today's), ordered by symbol."""
        return self._call(self._service.list_positions, [self._user_id], session_date)

    def list_trades(self, session_date: date | None = None) -> tuple[Trade, ...]:
        """Return the player's trades in a session (None: today's), in the order of execution."""
        return self._call(self._service.list_trades, [self._user_id], session_date)

    def get_player_gains(self, start: date, end: date) -> PlayerGains:
        """Return the player's gain on each symbol in the sessions from `start` to `end`, both included."""
        return self._call(self._service.get_player_gains, self._user_id, start, end)

    # -- quests -------------------------------------------------------------------------------

    def get_user_active_quests(self) -> tuple[Quest, ...]:
        """Return the quests that the player can still complete, oldest first."""
        return self._call(self._service.get_user_active_quests, self._user_id)

    def get_user_quests(self, *, limit: int = 100, after: Quest | None = None) -> tuple[Quest, ...]:
        """Return up to `limit` of the player's quests, of every status, newest first."""
        return self._call(self._service.get_user_quests, self._user_id, limit=limit, after=after)

    def update_quest_progress(self, quest_id: UUID | str, progress: Decimal) -> Quest:
        """Set the progress of one of the player's quests, and return the quest."""
        return self._call(self._service.update_quest_progress, quest_id, progress)

    # -- leaderboards -------------------------------------------------------------------------

    def get_leaderboard(
        self, category: str, session_date: date | None = None, limit: int = 50, *, offset: int = 0
    ) -> tuple[LeaderboardEntry, ...]:
        """Return up to `limit` entries of a leaderboard (None: today's), after skipping `offset` entries."""
        return self._call(self._service.get_leaderboard, category, session_date, limit, offset=offset)

    def get_user_rank(self, category: str, session_date: date | None = None) -> LeaderboardEntry:
        """Return the player's entry on a leaderboard (None: today's) with its exact rank."""
        return self._call(self._service.get_user_rank, self._user_id, category, session_date)

    def get_leaderboard_around(
        self, category: str, session_date: date | None = None, *, radius: int = 5
    ) -> tuple[LeaderboardEntry, ...]:
        """Return the player's entry on a leaderboard (None: today's), with up to `radius` above and below."""
        return self._call(
            self._service.get_leaderboard_around, self._user_id, category, session_date, radius=radius
        )

    def list_leaderboard_categories(self, session_date: date | None = None) -> tuple[str, ...]:
        """Return the categories that have entries in a session (None: today's)."""
        return self._call(self._service.list_leaderboard_categories, session_date)

    def list_leaderboard_dates(
        self, category: str | None = None, *, limit: int = 30, before: date | None = None
    ) -> tuple[date, ...]:
        """Return the newest sessions in which a category (None: any) has entries, newest first."""
        return self._call(self._service.list_leaderboard_dates, category, limit=limit, before=before)

    # -- market and events ----------------------------------------------------------------------

    def get_latest_market_data(self, symbols: Sequence[str] | None = None) -> tuple[Tick, ...]:
        """Return the latest tick of each symbol (None: of all), ordered by symbol."""
        return self._call(self._service.get_latest_market_data, symbols)

    def list_market_ticks(
        self,
        symbol: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int = 100,
        after: Tick | None = None,
    ) -> tuple[Tick, ...]:
        """Return up to `limit` ticks of a symbol in [start, end), oldest first."""
        return self._call(
            self._service.list_market_ticks, symbol, start=start, end=end, limit=limit, after=after
        )

    def get_price_history(
        self, symbol: str, start: datetime, end: datetime, bucket: str | timedelta
    ) -> tuple[Candle, ...]:
        """Return the candles of [start, end), oldest first."""
        return self._call(self._service.get_price_history, symbol, start, end, bucket)

    def get_sparklines(
        self,
        symbols: Sequence[str] | None = None,
        *,
        points: int = 24,
        step: str | timedelta = timedelta(hours=1),
    ) -> tuple[Sparkline, ...]:
        """Return the trend of each symbol's price (None: of all), ordered by symbol."""
        return self._call(self._service.get_sparklines, symbols, points=points, step=step)

    def get_recent_market_events(self, limit: int = 20) -> tuple[MarketEvent, ...]:
        """Return the most recent events, newest first."""
        return self._call(self._service.get_recent_market_events, limit)

    def list_market_events(
        self,
        limit: int = 50,
        *,
        type: str | None = None,
        sentiment: str | None = None,
        symbol: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: MarketEvent | None = None,
    ) -> tuple[MarketEvent, ...]:
        """Return the newest events that match every given filter, newest first."""
        return self._call(
            self._service.list_market_events,
            limit,
            type=type,
            sentiment=sentiment,
            symbol=symbol,
            since=since,
            until=until,
            after=after,
        )

    def list_market_event_types(self) -> tuple[str, ...]:
        """Return the different types of all events, in alphabetical order."""
        return self._call(self._service.list_market_event_types)
