"""Portfolios, positions and trades: what players own in each session."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, timedelta
from decimal import Decimal
from itertools import chain
from operator import add
from typing import TypeVar
from uuid import UUID

import msgspec

from core.cache import Cached
from core.cache.kinds import PORTFOLIO, format_id
from core.database import Database
from core.errors import ConstraintViolated, InvalidInput, PortfolioNotFound, UserNotFound
from core.queries import portfolios as queries
from core.records import (
    BatchResult,
    PlayerGains,
    PlayerSession,
    Portfolio,
    PortfolioUpdate,
    Position,
    SymbolGain,
    Trade,
)
from core.service.fence_ahead import LazyKeys
from core.service.inputs import (
    MAX_LIMIT,
    check_after,
    check_before,
    check_day,
    check_id,
    check_ids,
    check_limit,
    check_session_date,
    check_session_to_write,
    find_last_session,
    find_user_id,
)
from core.service.paging import chunked, list_pages, stream_pages
from core.service.record_checks import PORTFOLIO_UPDATES, check_one, check_updates
from core.service.writes import ServiceBase, name_operation, new_id


def portfolio_key(user_id: UUID, session_date: date) -> str:
    """Name the cached portfolio of a user in a session."""
    return f"portfolio:{format_id(user_id)}:{session_date.isoformat()}"


_PORTFOLIO = Cached(PORTFOLIO, Portfolio, portfolio_key)
# No write invalidates it. Finished sessions change only when somebody corrects them.
_FINISHED_GAINS = Cached(
    PORTFOLIO,
    PlayerGains,
    lambda user_id, first, last: f"portfolio:{format_id(user_id)}:gains:{first}:{last}",
    ttl_seconds=300,
    time_dependent=True,
)
CHUNK_ROWS = 10_000

T = TypeVar("T")


class Portfolios(ServiceBase):
    """The portfolios area of the service."""

    def find_portfolio(self, user_id: UUID | str, session_date: date | None = None) -> Portfolio | None:
        """Return a user's portfolio of a session (None: today's), or None when there is none.

        Writes nothing, so any date may be asked for. At most 60 s old, and never older than the
        last change through a service; a portfolio that was inserted without the service may be missing
        for up to 5 s. Raises `InvalidInput`.
        """
        checked, day = check_id(user_id, "user_id"), check_session_date(session_date, self._clock())

        def load(user_id: UUID, day: date) -> Portfolio | None:
            return self._read(queries.find_portfolio, user_id, day)

        return self._cache.get_or_load(_PORTFOLIO, load, checked, day)

    def get_portfolio(self, user_id: UUID | str, session_date: date | None = None) -> Portfolio:
        """Return a user's portfolio of a session (None: today's), which must exist.

        Writes nothing. The answer can be as old as that of `find_portfolio`. Raises `PortfolioNotFound`,
        also for a user that does not exist, and `InvalidInput`.
        """
        checked, day = check_id(user_id, "user_id"), check_session_date(session_date, self._clock())

        def load(user_id: UUID, day: date) -> Portfolio | None:
            return self._read(queries.find_portfolio, user_id, day)

        found = self._cache.get_or_load(_PORTFOLIO, load, checked, day)
        if found is None:
            raise _no_portfolio(checked, day)
        return found

    def get_current_portfolio(self, user_id: UUID | str, session_date: date | None = None) -> Portfolio:
        """Return a user's portfolio of a session (None: today's), created when there is none.

        A new portfolio has 10,000 in cash. The session may be any up to tomorrow (UTC); past sessions
        are allowed for replays and corrections. `find_portfolio` and `get_portfolio` create no
        portfolio. At most 60 s old, and never older than the last change through a
        service. Raises `UserNotFound`, `InvalidInput`.
        """
        checked, day = check_id(user_id, "user_id"), check_session_to_write(session_date, self._clock())

        def load(user_id: UUID, day: date) -> Portfolio | None:
            return self._read(queries.find_portfolio, user_id, day)

        found = self._cache.get_or_load(_PORTFOLIO, load, checked, day)
        if found is not None:
            return found
        keys = [portfolio_key(checked, day)]
        try:
            # changes nothing if another caller has created the portfolio meanwhile
            self._write_one(keys, queries.create_portfolio, new_id(), checked, day)
        except ConstraintViolated as error:
            raise UserNotFound(f"no user has the id {checked}; create_user makes one") from error
        # read through the cache, so that the next reader finds it there
        found = self._cache.get_or_load(_PORTFOLIO, load, checked, day)
        if found is None:
            raise UserNotFound(f"the user {checked} was deleted meanwhile; create_user makes one")
        return found

    def get_portfolio_history(
        self, user_id: UUID | str, *, limit: int = 100, before: date | None = None
    ) -> tuple[Portfolio, ...]:
        """Return up to `limit` portfolios of a user, newest session first, as of now.

        `before` is the session_date of the last row of the page before; without it, the list begins at
        today's session (UTC). Sessions after tomorrow are always left out. A user without any portfolio has
        an empty history. Raises `InvalidInput`.
        """
        checked, day = check_id(user_id, "user_id"), check_before(before, self._clock())
        limit = check_limit(limit)
        return self._read(queries.list_history, checked, limit, day)

    def list_portfolios(
        self, session_date: date | None = None, *, limit: int = 100, after: Portfolio | None = None
    ) -> tuple[Portfolio, ...]:
        """Return up to `limit` portfolios of a session (None: today's) by user id, as of now.

        `after` is the last portfolio of the page before. Raises `InvalidInput`.
        """
        day = check_session_date(session_date, self._clock())
        last = check_after(after, Portfolio, session_date=day)
        return self._read(queries.list_in_session, day, find_user_id(last), check_limit(limit))

    def stream_portfolios(
        self, session_date: date | None = None, *, after: Portfolio | None = None
    ) -> Iterator[Portfolio]:
        """Yield every portfolio of a session (None: today's) by user id; 2,000 are held at a time.

        Each batch of 2,000 is one statement with its own snapshot, and no connection is held between batches.
        `after` is the last portfolio already read. Raises `InvalidInput`.
        """
        day = check_session_date(session_date, self._clock())
        last = check_after(after, Portfolio, session_date=day)

        def load(last: Portfolio | None, limit: int) -> tuple[Portfolio, ...]:
            return self._read(queries.list_in_session, day, find_user_id(last), limit)

        return stream_pages(load, last)

    def update_portfolio_value(
        self,
        user_id: UUID | str,
        session_date: date | None,
        total_value: Decimal,
        day_change: Decimal,
    ) -> Portfolio:
        """Set a portfolio's value and its change since the session began; return the portfolio.

        Amounts are rounded half-even to cents. The change in percent is computed from both. The
        session (None: today's) may be any up to tomorrow (UTC). Raises `PortfolioNotFound`, `InvalidInput`.
        """
        now = self._clock()
        day = check_session_date(session_date, now)
        update = check_one(PortfolioUpdate(user_id, day, total_value, day_change), PORTFOLIO_UPDATES, now)
        updated = self._write_one([_name_key(update)], queries.update_portfolio, update)
        if updated is None:
            raise _no_portfolio(update.user_id, day)
        return updated

    def batch_update_portfolios(self, updates: Iterable[PortfolioUpdate]) -> BatchResult:
        """Set the values of many portfolios, all or none.

        One statement per 10,000 rows in one transaction. Amounts are rounded half-even to cents,
        sessions may be any up to tomorrow (UTC). Of two updates of one portfolio the last wins. Updates
        without a portfolio change nothing and are returned as missing. Raises `InvalidInput`, naming
        the place of the update in the batch.
        """
        checked = check_updates(updates, self._clock())
        if not checked:
            return BatchResult(updated=0, missing=())
        keys = LazyKeys(len(checked), lambda: [_name_key(update) for update in checked])

        def write() -> list[PlayerSession]:
            missing: list[PlayerSession] = []
            with self._write(keys) as (database, _):
                for chunk in chunked(checked, CHUNK_ROWS):
                    missing += queries.update_portfolios(database, chunk)
            return missing

        # retried after a deadlock with another caller that deletes several players of the batch
        missing = self._retry_conflicts(write)
        return BatchResult(updated=len(checked) - len(missing), missing=tuple(missing))

    def list_positions(
        self, user_ids: Iterable[UUID | str], session_date: date | None = None
    ) -> tuple[Position, ...]:
        """Return what up to 1,000 players hold in a session (None: today's), by player and symbol.

        As of now. A player without positions, or without a portfolio, has no row.
        Raises `InvalidInput`.
        """
        players = check_ids(user_ids, "user_ids", most=MAX_LIMIT)
        day = check_session_date(session_date, self._clock())
        return self._read(queries.list_positions, players, day)

    def stream_positions(self, session_date: date | None = None) -> Iterator[Position]:
        """Yield what all players hold in a session (None: today's), by player and symbol.

        Reads 1,000 players at a time in two statements, each with its own snapshot, and holds no connection
        between statements.
        Raises `InvalidInput`.
        """
        day = check_session_date(session_date, self._clock())
        return self._stream_by_player(queries.list_positions, day)

    def list_trades(
        self, user_ids: Iterable[UUID | str], session_date: date | None = None
    ) -> tuple[Trade, ...]:
        """Return what up to 1,000 players traded in a session, by player in the order of execution.

        As of now; None is today's session. Raises `InvalidInput`.
        """
        players = check_ids(user_ids, "user_ids", most=MAX_LIMIT)
        day = check_session_date(session_date, self._clock())
        return self._read(queries.list_trades, players, day)

    def stream_trades(self, session_date: date | None = None) -> Iterator[Trade]:
        """Yield what all players traded in a session (None: today's), by player in the order of execution.

        Reads 1,000 players at a time in two statements, each with its own snapshot, and holds no connection
        between statements.
        Raises `InvalidInput`.
        """
        day = check_session_date(session_date, self._clock())
        return self._stream_by_player(queries.list_trades, day)

    def get_player_gains(self, user_id: UUID | str, start: date, end: date) -> PlayerGains:
        """Return what each symbol added to a player's value in the sessions from `start` to `end`.

        Both dates are included. Aggregated by the database from trades, positions and the last price of
        each session; the last price of an open session is the newest one. Finished sessions (before
        today, UTC) are at most 300 s old, the open one is as of now. A player without sessions has
        zeros. Raises `InvalidInput`.
        """
        checked = check_id(user_id, "user_id")
        first, last = check_day(start, "start"), check_day(end, "end")
        if last < first:
            raise InvalidInput(f"end {last} is before start {first}; give a later end")
        today = self._clock().astimezone(UTC).date()
        last = min(last, find_last_session(self._clock()))

        def load(user_id: UUID, first: date, last: date) -> PlayerGains:
            return self._read(queries.find_gains, user_id, first, last)

        parts = []
        if first < today:
            finished = min(last, today - timedelta(days=1))
            parts.append(self._cache.get_or_load(_FINISHED_GAINS, load, checked, first, finished))
        if last >= today:
            parts.append(load(checked, max(first, today), last))
        return add_gains(parts)

    def _stream_by_player(
        self, query: Callable[[Database, Sequence[UUID], date], tuple[T, ...]], day: date
    ) -> Iterator[T]:
        """Yield the rows of all players of a session; statements are named after the calling method."""
        operation = name_operation(sys._getframe(1))  # noqa: SLF001  # documented

        def load_portfolios(after: Portfolio | None, limit: int) -> tuple[Portfolio, ...]:
            return self._database.read(operation, queries.list_in_session, day, find_user_id(after), limit)

        def load(portfolios: Sequence[Portfolio]) -> tuple[T, ...]:
            return self._database.read(operation, query, [each.user_id for each in portfolios], day)

        return chain.from_iterable(map(load, list_pages(load_portfolios, MAX_LIMIT)))


def add_gains(parts: Sequence[PlayerGains]) -> PlayerGains:
    """Return the sum of a player's gains over several spans of sessions; zeros for no span."""
    symbols: dict[str, SymbolGain] = {}
    for gain in chain.from_iterable(part.symbols for part in parts):
        known = symbols.get(gain.symbol)
        symbols[gain.symbol] = gain if known is None else _add_gain(known, gain)
    return PlayerGains(
        sessions=sum(part.sessions for part in parts),
        change=sum((part.change for part in parts), Decimal(0)),
        symbols=tuple(symbols[symbol] for symbol in sorted(symbols)),
    )


def _add_gain(first: SymbolGain, second: SymbolGain) -> SymbolGain:
    _, *figures = msgspec.structs.astuple(first)
    _, *others = msgspec.structs.astuple(second)
    return SymbolGain(first.symbol, *map(add, figures, others))


def _no_portfolio(user_id: UUID | str, day: date) -> PortfolioNotFound:
    return PortfolioNotFound(
        f"user {user_id} has no portfolio in session {day}; get_current_portfolio opens one"
    )


def _name_key(update: PortfolioUpdate) -> str:
    return portfolio_key(update.user_id, update.session_date)  # type: ignore[arg-type]  # checked


def list_portfolio_keys(database: Database, user_id: UUID) -> list[str]:
    """Return the cache key of every portfolio of a user."""
    days = queries.list_sessions_of_user(database, user_id)
    return [portfolio_key(user_id, day) for day in days]
