"""Positions: what players hold of each symbol in a session, and the trades that led to it."""

from collections.abc import Iterable
from datetime import date
from uuid import UUID

from core.queries import positions as queries
from core.records import Position, Trade
from core.service.base import ServiceBase
from core.service.inputs import MAX_LIMIT, check_ids, check_session_date


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
