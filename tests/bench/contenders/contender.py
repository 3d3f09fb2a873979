"""What every contender can do.

Owns the list of calls. A contender answers with whatever is natural for it, mappings or
objects whose fields are the column names; `loads` counts the leaderboards that it loads from the
database.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from core.records import PortfolioUpdate, Tick
from tests.bench.data import LIMIT


class Contender(ABC):
    """One way of caching and writing; the calls are thread safe."""

    name: ClassVar[str]

    def __init__(self) -> None:
        # a list, because its append needs no lock
        self.loads: list[None] = []

    def count_load(self, *_: object) -> None:
        """Count a statement that loads a leaderboard."""
        self.loads.append(None)

    @abstractmethod
    def get_leaderboard(self, limit: int = LIMIT) -> Sequence[Any]:
        """Return the top with user_id, username, score and rank."""

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


class GameContender(Contender):
    """A contender that also does what a game does all day, one call at a time.

    Here `update_score` and `update_portfolio` return the row that was written, the score with its rank.
    """

    @abstractmethod
    def get_rank(self, user_id: UUID, category: str) -> Any:
        """Return a player's entry on a leaderboard with its rank, as of now."""

    @abstractmethod
    def update_profile(self, user_id: UUID, name: str) -> Any:
        """Set a player's name; return the profile."""

    @abstractmethod
    def update_quest(self, quest_id: UUID, progress: Decimal) -> Any:
        """Set how far an active quest is; return the quest."""

    @abstractmethod
    def search(self, prefix: str) -> Sequence[Any]:
        """Return the first 20 players whose username or name starts with a prefix, as of now."""
