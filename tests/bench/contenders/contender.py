"""The calls that every contender implements.

Owns the list of calls. A contender returns rows as mappings or as objects, depending on its library; their
keys or fields are the column names. `loads` has one item for each leaderboard loaded from the database.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from core.records import PortfolioUpdate, Tick
from tests.bench.data import LIMIT


class Contender(ABC):
    """One implementation of reads through a cache and of writes; its calls are thread safe."""

    name: ClassVar[str]

    def __init__(self) -> None:
        # a list, because its append needs no lock
        self.loads: list[None] = []

    def count_load(self, *_: object) -> None:
        """Count a statement that loads a leaderboard."""
        self.loads.append(None)

    @abstractmethod
    def get_leaderboard(self, limit: int = LIMIT) -> Sequence[Any]:
        """Return the first `limit` entries with user_id, username, score and rank."""

    @abstractmethod
    def get_portfolio(self, user_id: UUID) -> Any:
        """Return a player's portfolio."""

    @abstractmethod
    def get_market(self, symbols: Sequence[str]) -> Sequence[Any]:
        """Return the latest tick of each symbol, ordered by symbol."""

    @abstractmethod
    def update_score(self, user_id: UUID, score: Decimal, category: str) -> Any:
        """Set a player's score on a leaderboard."""

    @abstractmethod
    def update_portfolio(self, user_id: UUID, total_value: Decimal) -> Any:
        """Set the total value of one portfolio."""

    @abstractmethod
    def update_portfolios(self, updates: Sequence[PortfolioUpdate]) -> int:
        """Set the values of many portfolios; return the number of updated portfolios."""

    @abstractmethod
    def insert_tick(self, tick: Tick) -> None:
        """Insert a tick, or replace the tick with the same symbol and time."""

    @abstractmethod
    def insert_ticks(self, ticks: Sequence[Tick]) -> int:
        """Insert many ticks in one transaction; return the number of ticks."""

    def empty_local_cache(self) -> None:
        """Remove all values cached in this process; the benchmark empties Redis itself."""
        return

    @abstractmethod
    def close(self) -> None:
        """Close every connection."""


class GameContender(Contender):
    """A contender that also implements the calls for single rows that a game makes.

    Its `update_score` returns the entry with its rank, and its `update_portfolio` returns the portfolio.
    """

    @abstractmethod
    def get_rank(self, user_id: UUID, category: str) -> Any:
        """Return a player's current entry on a leaderboard, with its rank; the entry is not cached."""

    @abstractmethod
    def update_profile(self, user_id: UUID, name: str) -> Any:
        """Set a player's name; return the profile."""

    @abstractmethod
    def update_quest(self, quest_id: UUID, progress: Decimal) -> Any:
        """Set the progress of an active quest; return the quest."""

    @abstractmethod
    def search(self, prefix: str) -> Sequence[Any]:
        """Return the first 20 players whose username or name starts with a prefix; they are not cached."""
