"""The calls that every contender implements.

Owns the list of calls. A contender returns mappings, or objects whose fields are the column names,
whichever fits its library; `loads` counts the leaderboards that it loads from the database.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from core.records import PortfolioUpdate, Tick
from tests.bench.data import LIMIT


class Contender(ABC):
    """One way of caching and writing; its calls are thread safe."""

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
        """Set one portfolio's value."""

    @abstractmethod
    def update_portfolios(self, updates: Sequence[PortfolioUpdate]) -> int:
        """Set many portfolios' values; return how many there are."""

    @abstractmethod
    def insert_tick(self, tick: Tick) -> None:
        """Insert a tick, or replace the tick with the same symbol and time."""

    @abstractmethod
    def insert_ticks(self, ticks: Sequence[Tick]) -> int:
        """Insert many ticks, all or none; return how many."""

    def forget(self) -> None:
        """Drop all values cached in this process; the benchmark itself empties Redis."""
        return

    @abstractmethod
    def close(self) -> None:
        """Close every connection."""


class GameContender(Contender):
    """A contender that also implements the single calls that a game makes all day.

    Its `update_score` and `update_portfolio` return the written row, the score together with its rank.
    """

    @abstractmethod
    def get_rank(self, user_id: UUID, category: str) -> Any:
        """Return a player's entry on a leaderboard with its rank, as of now."""

    @abstractmethod
    def update_profile(self, user_id: UUID, name: str) -> Any:
        """Set a player's name; return the profile."""

    @abstractmethod
    def update_quest(self, quest_id: UUID, progress: Decimal) -> Any:
        """Set the progress of an active quest; return the quest."""

    @abstractmethod
    def search(self, prefix: str) -> Sequence[Any]:
        """Return the first 20 players whose username or name starts with a prefix, as of now."""
