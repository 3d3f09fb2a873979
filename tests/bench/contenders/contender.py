"""What every contender can do.

Owns the list of calls. A contender answers with whatever is natural for it, mappings or
objects whose fields are the column names; `loads` counts the boards that it loads from the database.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from core.records import PortfolioUpdate, Tick


class Contender(ABC):
    """One way of caching and writing; the calls are thread safe."""

    name: ClassVar[str]

    def __init__(self) -> None:
        # a list, because its append needs no lock
        self.loads: list[None] = []

    def count_load(self, *_: object) -> None:
        """Count a statement that loads a board."""
        self.loads.append(None)

    @abstractmethod
    def get_leaderboard(self) -> Sequence[Any]:
        """Return the top 50 with user_id, username, score and rank."""

    @abstractmethod
    def get_portfolio(self, user_id: UUID) -> Any:
        """Return a player's portfolio."""

    @abstractmethod
    def get_market(self, symbols: Sequence[str]) -> Sequence[Any]:
        """Return the latest tick of each symbol, ordered by symbol."""

    @abstractmethod
    def update_portfolio(self, user_id: UUID, total_value: Decimal) -> None:
        """Set one portfolio's value."""

    @abstractmethod
    def update_portfolios(self, updates: Sequence[PortfolioUpdate]) -> int:
        """Set many portfolios' values; return how many there are."""

    @abstractmethod
    def insert_tick(self, tick: Tick) -> None:
        """Insert a tick; one of a known symbol and time is replaced."""

    @abstractmethod
    def insert_ticks(self, ticks: Sequence[Tick]) -> int:
        """Insert many ticks, all or none; return how many."""

    def forget(self) -> None:
        """Forget what is kept in this process; Redis is emptied by the harness."""
        return

    @abstractmethod
    def close(self) -> None:
        """Close every connection."""
