"""Positions: what players hold of each symbol in a session, and the trades that led to it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from typing import TypeVar
from uuid import UUID

from core.database import Database
from core.queries import portfolios as portfolio_queries
from core.queries import positions as queries
from core.records import Portfolio, Position, Trade
from core.service.base import ServiceBase
from core.service.inputs import MAX_LIMIT, check_ids, check_session_date
from core.service.paging import list_pages

T = TypeVar("T")


class Positions(ServiceBase):
    """The positions area of the service."""

    def list_positions(
        self, user_ids: Iterable[UUID | str], session_date: date | None = None
    ) -> tuple[Position, ...]:
        """Return what up to 1,000 players hold in a session (None: today's), by player and symbol.

        As of now. A player without positions, or without a portfolio, has no row.
        Raises `InvalidInput`.
        """
        players, day = (
            check_ids(user_ids, "user_ids", most=MAX_LIMIT),
            check_session_date(session_date, self._clock()),
        )
        return self._read("list_positions", queries.list_positions, players, day)

    def stream_positions(self, session_date: date | None = None) -> Iterator[Position]:
        """Yield what all players hold in a session (None: today's), by player and symbol.

        The positions of 1,000 players are held at a time: two statements, as of then, and no
        connection is held between them. Raises `InvalidInput`.
        """
        day = check_session_date(session_date, self._clock())
        return self._stream_rows("stream_positions", day, queries.list_positions)

    def list_trades(
        self, user_ids: Iterable[UUID | str], session_date: date | None = None
    ) -> tuple[Trade, ...]:
        """Return what up to 1,000 players traded in a session, by player in the order of execution.

        As of now; None is today's session. Raises `InvalidInput`.
        """
        players, day = (
            check_ids(user_ids, "user_ids", most=MAX_LIMIT),
            check_session_date(session_date, self._clock()),
        )
        return self._read("list_trades", queries.list_trades, players, day)

    def stream_trades(self, session_date: date | None = None) -> Iterator[Trade]:
        """Yield what all players traded in a session (None: today's), by player in the order of execution.

        The trades of 1,000 players are held at a time: two statements, as of then, and no
        connection is held between them. Raises `InvalidInput`.
        """
        day = check_session_date(session_date, self._clock())
        return self._stream_rows("stream_trades", day, queries.list_trades)

    def _stream_rows(
        self, operation: str, day: date, load: Callable[[Database, Sequence[UUID], date], tuple[T, ...]]
    ) -> Iterator[T]:
        """Yield rows of a session player by player: each belongs to a portfolio, which are in an index."""

        def load_portfolios(after: Portfolio | None, _: int) -> tuple[Portfolio, ...]:
            place = None if after is None else after.user_id
            return self._read(operation, portfolio_queries.list_in_session, day, place, MAX_LIMIT)

        for portfolios in list_pages(load_portfolios, MAX_LIMIT):
            yield from self._read(operation, load, [portfolio.user_id for portfolio in portfolios], day)
