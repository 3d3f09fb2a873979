"""The service of `core`, with and without its near cache.

Owns the calls of the service that the benchmark makes. The service is not tuned for the benchmark.
"""

import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from pydantic import SecretStr

from core import Settings, open_service
from core.records import PortfolioUpdate, Tick
from tests.bench.contenders.connections import redis_url
from tests.bench.contenders.contender import GameContender
from tests.bench.data import CATEGORY, DAY, LIMIT, SEARCH_LIMIT

FEED_SECONDS = 5.0


class Ours(GameContender):
    """The service with both cache tiers."""

    name: ClassVar[str] = "ours"
    changes: ClassVar[dict[str, Any]] = {}

    def __init__(self, settings: Settings, *, number: int) -> None:
        super().__init__()
        # each contender has its own key prefix, so that no feed gets the invalidations of another contender
        changes = {
            "redis_url": SecretStr(redis_url(settings, number=number)),
            "redis_key_prefix": f"{number}:",
            **self.changes,
        }
        self._service = open_service(settings.model_copy(update=changes))
        database: Any = self._service._database
        read = database.read

        def read_and_count(operation: str, *arguments: Any) -> Any:
            if operation == "get_leaderboard":
                self.count_load()
            return read(operation, *arguments)

        database.read = read_and_count
        self._wait_for_feed()

    def _wait_for_feed(self) -> None:
        near, deadline = self._service._cache._near, time.monotonic() + FEED_SECONDS
        while near._max_entries and not near.is_live and time.monotonic() < deadline:
            time.sleep(0.001)

    def get_leaderboard(self, limit: int = LIMIT) -> Sequence[Any]:
        """Read a leaderboard."""
        return self._service.get_leaderboard(CATEGORY, DAY, limit)

    def get_rank(self, user_id: UUID, category: str) -> Any:
        """Read one entry."""
        return self._service.get_user_rank(user_id, category, DAY)

    def update_score(self, user_id: UUID, score: Decimal, category: str) -> Any:
        """Write one entry."""
        return self._service.update_leaderboard_entry(user_id, category, score, DAY)

    def get_portfolio(self, user_id: UUID) -> Any:
        """Read a portfolio."""
        return self._service.get_current_portfolio(user_id, DAY)

    def get_market(self, symbols: Sequence[str]) -> Sequence[Any]:
        """Read the latest ticks."""
        return self._service.get_latest_market_data(symbols)

    def update_profile(self, user_id: UUID, name: str) -> Any:
        """Write one profile."""
        return self._service.update_user_profile(user_id, name=name)

    def update_quest(self, quest_id: UUID, progress: Decimal) -> Any:
        """Write one quest."""
        return self._service.update_quest_progress(quest_id, progress)

    def search(self, prefix: str) -> Sequence[Any]:
        """Search players."""
        return self._service.search_users(prefix, limit=SEARCH_LIMIT)

    def update_portfolio(self, user_id: UUID, total_value: Decimal) -> Any:
        """Write one portfolio."""
        return self._service.update_portfolio_value(user_id, DAY, total_value, Decimal(0))

    def update_portfolios(self, updates: Sequence[PortfolioUpdate]) -> int:
        """Write many portfolios."""
        return self._service.batch_update_portfolios(updates).updated

    def insert_tick(self, tick: Tick) -> None:
        """Write one tick."""
        self._service.insert_market_tick(
            tick.symbol, tick.price, volume=tick.volume, bid=tick.bid, ask=tick.ask, timestamp=tick.timestamp
        )

    def insert_ticks(self, ticks: Sequence[Tick]) -> int:
        """Write many ticks."""
        return self._service.insert_market_ticks(ticks)

    def empty_local_cache(self) -> None:
        """Empty the near cache now; the feed would do the same shortly after FLUSHDB."""
        self._service._cache._near.clear()

    def close(self) -> None:
        """Close the service."""
        self._service.close()


class OursShared(Ours):
    """The service without its near cache."""

    name: ClassVar[str] = "ours, shared tier only"
    changes: ClassVar[dict[str, Any]] = {"near_cache_size": 0}
