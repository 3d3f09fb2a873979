"""Looking after the caches: clearing, warming, figures."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from core.queries import market as market_queries
from core.queries import users as user_queries
from core.records import CacheStats, PoolStats
from core.service.base import chunked
from core.service.inputs import check_callable, check_each, check_id, check_limit
from core.service.leaderboards import Leaderboards
from core.service.market import Market, list_market_keys
from core.service.portfolios import Portfolios, list_portfolio_keys
from core.service.quests import Quests, quests_key
from core.service.users import Users, user_key

# One MGET, one script and one statement each; Redis answers nobody else meanwhile.
WARM_KEYS = 200


class Upkeep(Users, Portfolios, Market, Leaderboards, Quests):
    """The cache and run areas of the service."""

    def clear_user_cache(self, user_id: UUID | str) -> None:
        """Drop every cached value of one user: profile, active quests, portfolios.

        Of portfolios those of the sessions in which the database has one. Raises `InvalidInput`.
        """
        checked = check_id(user_id, "user_id")
        portfolio_keys = self._read("clear_user_cache", list_portfolio_keys, checked)
        self._cache.invalidate([user_key(checked), quests_key(checked), *portfolio_keys])

    def clear_market_data_cache(self) -> None:
        """Drop the cached prices of every symbol, also of one whose ticks were deleted past the service.

        Summaries of prices, which no write drops either, end by themselves within 30 s.
        """
        symbols = self._read("clear_market_data_cache", market_queries.list_symbols)
        self._cache.invalidate(list_market_keys(symbols))

    def warm_cache(
        self,
        *,
        players: int = 100,
        limits: Sequence[int] = (10, 50, 100),
        on_progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Fill the cache with what is asked for first; return how many keys that are.

        Today's boards at the given limits, every symbol, and the profile and active quests
        of the players that were active last: all limits of a board, or 200 keys of another
        kind, are one look-up, one statement and one fill. `on_progress` gets the keys done and
        in all. Raises `InvalidInput`.
        """
        checked = sorted(set(check_each(limits, "limits", lambda limit: check_limit(limit, "limits"))))
        check_callable(on_progress, "on_progress")
        count = check_limit(players, "players")
        recent = self._read("warm_cache", user_queries.list_most_active, count)
        user_ids = [user.id for user in recent]
        symbols = [tick.symbol for tick in self.get_latest_market_data()]
        categories = self.list_leaderboard_categories() if checked else ()
        total = 1 + len(categories) * len(checked) + len(symbols) + 2 * len(user_ids)
        steps: list[tuple[Callable[[], object], int]] = [
            (partial(self._warm_board, category, checked), len(checked)) for category in categories
        ]
        kinds: tuple[tuple[Callable[[Any], object], Sequence[Any]], ...] = (
            (self.get_latest_market_data, symbols),
            (self._warm_users, user_ids),
            (self._warm_quests, user_ids),
        )
        for warm, items in kinds:
            steps += [(partial(warm, chunk), len(chunk)) for chunk in chunked(items, WARM_KEYS)]
        done = 1
        for step, keys in steps:
            step()
            done += keys
            if on_progress is not None:
                on_progress(done, total)
        self.metrics.count_task_success("warm_cache")
        return total

    def stale_seconds(self) -> float | None:
        """Return how old the answer to the last cached read was; None when it was fresh.

        The last of this thread, and in a coroutine of this task: ask where the read was made, with
        `asyncio.to_thread` inside the function that the thread runs. A number means that the
        database did not answer, and that the answer is the last known one instead of an error; it
        is never older than CACHE_FAILSAFE.
        """
        return self._cache.stale_seconds

    def pool_stats(self) -> PoolStats:
        """Return the figures of this process's connection pool; waits in seconds."""
        return self._database.pool_stats()

    def cache_stats(self) -> CacheStats:
        """Return what this process's cache has counted since the service was opened, by kind of key."""
        return self._cache.stats()
