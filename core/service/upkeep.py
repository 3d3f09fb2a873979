"""Looking after the caches: clearing, warming, figures."""

from collections.abc import Callable, Sequence
from uuid import UUID

from core.cache.keys import (
    MARKET,
    MARKET_ALL_KEY,
    QUESTS,
    USER,
    market_key,
    quests_key,
    user_key,
)
from core.queries import market as market_queries
from core.queries import users as user_queries
from core.records import CacheStats, PoolStats
from core.service.inputs import check_id, check_limit
from core.service.leaderboards import Leaderboards
from core.service.market import Market
from core.service.portfolios import Portfolios, list_portfolio_keys
from core.service.quests import Quests
from core.service.users import Users


class Upkeep(Users, Portfolios, Market, Leaderboards, Quests):
    """The cache and run areas of the service."""

    def clear_user_cache(self, user_id: UUID | str) -> None:
        """Drop every cached value of one user: profile, portfolios, active quests.

        Raises `InvalidInput`.
        """
        checked = check_id(user_id, "user_id")
        portfolio_keys = self._read("clear_user_cache", list_portfolio_keys, checked)
        profile = [(USER, user_key(checked)), (QUESTS, quests_key(checked))]
        self._cache.invalidate([*profile, *portfolio_keys])

    def clear_market_data_cache(self) -> None:
        """Drop the cached prices of every symbol."""
        ticks = self._read("clear_market_data_cache", market_queries.list_latest_of_all)
        keys = [MARKET_ALL_KEY, *(market_key(tick.symbol) for tick in ticks)]
        self._cache.invalidate((MARKET, key) for key in keys)

    def warm_cache(
        self,
        *,
        players: int = 100,
        limits: Sequence[int] = (10, 50, 100),
        on_progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Fill the cache with what is asked for first; return how many reads that took.

        Today's boards at the given limits, every symbol, and the profile and active quests
        of the players that were active last. `on_progress` gets steps done and in all.
        Raises `InvalidInput`.
        """
        recent = self._read("warm_cache", user_queries.list_most_active, check_limit(players))
        steps: list[Callable[[], object]] = [self.get_latest_market_data]
        for category in self.list_leaderboard_categories():
            steps += [_call(self.get_leaderboard, category, None, check_limit(n)) for n in limits]
        steps.append(lambda: self.get_latest_market_data([t.symbol for t in self.get_latest_market_data()]))
        for user in recent:
            steps.append(_call(self.get_user_by_id, user.id))
            steps.append(_call(self.get_user_active_quests, user.id))
        for done, step in enumerate(steps, start=1):
            step()
            if on_progress is not None:
                on_progress(done, len(steps))
        return len(steps)

    def pool_stats(self) -> PoolStats:
        """Return the figures of this process's connection pool; waits in seconds."""
        return self._database.pool_stats()

    def cache_stats(self) -> CacheStats:
        """Return what this process's cache counted since it started."""
        return self._cache.stats()


def _call(method: Callable[..., object], *args: object) -> Callable[[], object]:
    return lambda: method(*args)
