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
from core.service.argument_checks import (
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
from core.service.fence_ahead import LazyKeys
from core.service.paging import chunked, list_pages, stream_pages
from core.service.record_checks import PORTFOLIO_UPDATES, check_one, check_updates
from core.service.writes import ServiceBase, find_operation, new_id


def portfolio_key(user_id: UUID, session_date: date) -> str:
    """Return the cache key of the portfolio of a user in a session."""
    return f"portfolio:{format_id(user_id)}:{session_date.isoformat()}"


_PORTFOLIO = Cached(PORTFOLIO, Portfolio, portfolio_key)
# The gains of finished sessions change only by corrections, so no write invalidates them: they expire.
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
    """Calls of the service about portfolios, positions and trades."""

    def find_portfolio(self, user_id: UUID | str, session_date: date | None = None) -> Portfolio | None:
        """Return a user's portfolio of a session (None: today's), or None if there is none.

        Creates no portfolio, so any date is accepted. The answer is at most 60 s old, and never older than
        the last change through the service. A portfolio that was inserted without the service may be missing
        for up to 5 s. Raises `InvalidInput`.
        """
        checked, day = check_id(user_id, "user_id"), check_session_date(session_date, self._clock())

        def load(user_id: UUID, day: date) -> Portfolio | None:
            return self._read(queries.find_portfolio, user_id, day)

        return self._cache.get_or_load(_PORTFOLIO, load, checked, day)

    def get_portfolio(self, user_id: UUID | str, session_date: date | None = None) -> Portfolio:
        """Return a user's portfolio of a session (None: today's), which must exist.

        Creates no portfolio. The answer is at most 60 s old, and never older than the last change through the
        service. A portfolio that was inserted without the service may be missing for up to 5 s. Raises
        `PortfolioNotFound`, also for a user that does not exist, and `InvalidInput`.
        """
        checked, day = check_id(user_id, "user_id"), check_session_date(session_date, self._clock())

        def load(user_id: UUID, day: date) -> Portfolio | None:
            return self._read(queries.find_portfolio, user_id, day)

        found = self._cache.get_or_load(_PORTFOLIO, load, checked, day)
        if found is None:
            raise _no_portfolio(checked, day)
        return found

    def get_current_portfolio(self, user_id: UUID | str, session_date: date | None = None) -> Portfolio:
        """Return a user's portfolio of a session (None: today's). Creates it if there is none.

        A new portfolio has 10,000 in cash. The session may be any up to tomorrow (UTC); past sessions are
        accepted for replays and corrections. `find_portfolio` and `get_portfolio` create no portfolio. The
        answer is at most 60 s old, and never older than the last change through the service. Raises
        `UserNotFound`, `InvalidInput`.
        """
        checked, day = check_id(user_id, "user_id"), check_session_to_write(session_date, self._clock())

        def load(user_id: UUID, day: date) -> Portfolio | None:
            return self._read(queries.find_portfolio, user_id, day)

        found = self._cache.get_or_load(_PORTFOLIO, load, checked, day)
        if found is not None:
            return found
        keys = [portfolio_key(checked, day)]
        try:
            # does nothing if another caller has created the portfolio meanwhile
            self._write_one(keys, queries.create_portfolio, new_id(), checked, day)
        except ConstraintViolated as error:
            raise UserNotFound(f"no user has the id {checked}; create_user makes one") from error
        # read through the cache, which keeps the portfolio for the next reader
        found = self._cache.get_or_load(_PORTFOLIO, load, checked, day)
        if found is None:
            raise UserNotFound(f"the user {checked} was deleted meanwhile; create_user makes one")
        return found

    def get_portfolio_history(
        self, user_id: UUID | str, *, limit: int = 100, before: date | None = None
    ) -> tuple[Portfolio, ...]:
        """Return up to `limit` portfolios of a user, newest session first, uncached.

        `before` is `session_date` of the last portfolio of the previous page; without it, the list begins at
        today's session (UTC). Sessions after tomorrow are always left out. A user without any portfolio has
        an empty history. Raises `InvalidInput`.
        """
        checked, day = check_id(user_id, "user_id"), check_before(before, self._clock())
        limit = check_limit(limit)
        return self._read(queries.list_history, checked, limit, day)

    def list_portfolios(
        self, session_date: date | None = None, *, limit: int = 100, after: Portfolio | None = None
    ) -> tuple[Portfolio, ...]:
        """Return up to `limit` portfolios of a session (None: today's), ordered by user id, uncached.

        `after` is the last portfolio of the previous page. Raises `InvalidInput`.
        """
        day = check_session_date(session_date, self._clock())
        last = check_after(after, Portfolio, session_date=day)
        return self._read(queries.list_in_session, day, find_user_id(last), check_limit(limit))

    def stream_portfolios(
        self, session_date: date | None = None, *, after: Portfolio | None = None
    ) -> Iterator[Portfolio]:
        """Yield every portfolio of a session (None: today's), ordered by user id.

        Reads batches of 2,000 portfolios. Each batch is one statement with its own snapshot, and no
        connection is held between batches. `after` is the last portfolio already read. Raises `InvalidInput`.
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
        """Set a portfolio's value, and its change since the session began. Return the portfolio.

        Amounts are rounded half-even to cents. The change in percent is computed from the two amounts. The
        session (None: today's) may be any up to tomorrow (UTC). Raises `PortfolioNotFound`, `InvalidInput`.
        """
        now = self._clock()
        day = check_session_date(session_date, now)
        update = check_one(PortfolioUpdate(user_id, day, total_value, day_change), PORTFOLIO_UPDATES, now)
        updated = self._write_one([_find_key(update)], queries.update_portfolio, update)
        if updated is None:
            raise _no_portfolio(update.user_id, day)
        return updated

    def batch_update_portfolios(self, updates: Iterable[PortfolioUpdate]) -> BatchResult:
        """Set the values of many portfolios, all or none.

        Runs one statement per 10,000 rows, in one transaction. Amounts are rounded half-even to cents.
        Sessions may be any up to tomorrow (UTC). Of several updates of one portfolio, the last is stored.
        Updates of portfolios that do not exist change nothing and are returned as missing. Raises
        `InvalidInput` with the index of the wrong update.
        """
        checked = check_updates(updates, self._clock())
        if not checked:
            return BatchResult(updated=0, missing=())
        keys = LazyKeys(len(checked), lambda: [_find_key(update) for update in checked])

        def write() -> list[PlayerSession]:
            missing: list[PlayerSession] = []
            with self._write(keys) as (database, _):
                for chunk in chunked(checked, CHUNK_ROWS):
                    missing += queries.update_portfolios(database, chunk)
            return missing

        # A deadlock is possible if another transaction deletes several players of the batch.
        missing = self._retry_conflicts(write)
        return BatchResult(updated=len(checked) - len(missing), missing=tuple(missing))

    def list_positions(
        self, user_ids: Iterable[UUID | str], session_date: date | None = None
    ) -> tuple[Position, ...]:
        """Return the positions of up to 1,000 players in a session (None: today's), uncached.

        They are ordered by player, then by symbol. A player without positions, or without a portfolio, has
        none. Raises `InvalidInput`.
        """
        players = check_ids(user_ids, "user_ids", max_count=MAX_LIMIT)
        day = check_session_date(session_date, self._clock())
        return self._read(queries.list_positions, players, day)

    def stream_positions(self, session_date: date | None = None) -> Iterator[Position]:
        """Yield the positions of all players in a session (None: today's), ordered by player, then by symbol.

        Reads 1,000 players at a time with two statements. Each statement has its own snapshot, and no
        connection is held between statements. Raises `InvalidInput`.
        """
        day = check_session_date(session_date, self._clock())
        return self._stream_by_player(queries.list_positions, day)

    def list_trades(
        self, user_ids: Iterable[UUID | str], session_date: date | None = None
    ) -> tuple[Trade, ...]:
        """Return the trades of up to 1,000 players in a session (None: today's), uncached.

        They are ordered by player, then by time of execution. Raises `InvalidInput`.
        """
        players = check_ids(user_ids, "user_ids", max_count=MAX_LIMIT)
        day = check_session_date(session_date, self._clock())
        return self._read(queries.list_trades, players, day)

    def stream_trades(self, session_date: date | None = None) -> Iterator[Trade]:
        """Yield the trades of all players in a session (None: today's), ordered by player, then by time.

        Reads 1,000 players at a time with two statements. Each statement has its own snapshot, and no
        connection is held between statements. Raises `InvalidInput`.
        """
        day = check_session_date(session_date, self._clock())
        return self._stream_by_player(queries.list_trades, day)

    def get_player_gains(self, user_id: UUID | str, start: date, end: date) -> PlayerGains:
        """Return a player's gain on each symbol in the sessions from `start` to `end`, both included.

        The gains are computed from trades, positions and the last price of each session; in the open session
        that is the newest price. The figures of finished sessions (before today, UTC) are at most 300 s old,
        those of the open session are not cached. A player without sessions has zeros. Raises `InvalidInput`.
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
        """Yield what `query` returns for all players of a session.

        Metrics and statements are labelled with the name of the method that calls this one.
        """
        operation = find_operation(sys._getframe(1))  # noqa: SLF001  # documented

        def load_portfolios(after: Portfolio | None, limit: int) -> tuple[Portfolio, ...]:
            return self._database.read(operation, queries.list_in_session, day, find_user_id(after), limit)

        def load(portfolios: Sequence[Portfolio]) -> tuple[T, ...]:
            return self._database.read(operation, query, [each.user_id for each in portfolios], day)

        return chain.from_iterable(map(load, list_pages(load_portfolios, MAX_LIMIT)))


def add_gains(parts: Sequence[PlayerGains]) -> PlayerGains:
    """Add up the gains of a player in several periods. If `parts` is empty, the gains are 0."""
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


def _find_key(update: PortfolioUpdate) -> str:
    return portfolio_key(update.user_id, update.session_date)  # type: ignore[arg-type]  # checked


def list_portfolio_keys(database: Database, user_id: UUID) -> list[str]:
    """Return the cache key of every portfolio of a user."""
    days = queries.list_sessions_of_user(database, user_id)
    return [portfolio_key(user_id, day) for day in days]
