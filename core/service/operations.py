"""Operations: clears and warms the cache; statistics of the cache, the pool and the database server."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar
from uuid import UUID

from core.cache.kinds import REPORTS_VERSION_KEY
from core.queries import server_statistics, ticks, users
from core.records import (
    CacheStats,
    PoolStats,
    StatementFigures,
    TableFigures,
    UnusedIndex,
)
from core.service.argument_checks import (
    check_callable,
    check_each,
    check_id,
    check_limit,
    check_symbol,
    list_accepted,
)
from core.service.leaderboards import Leaderboards
from core.service.market import Market, list_market_keys
from core.service.paging import chunked
from core.service.portfolios import list_portfolio_keys
from core.service.quests import Quests, quests_key
from core.service.users import Users, user_key

T = TypeVar("T")

# Number of cache keys that one step of `warm_cache` fills, with one MGET, one SQL statement and one Redis
# script. The number is limited because Redis serves no other client while a script runs.
WARM_KEYS = 200


class Operations(Users, Market, Leaderboards, Quests):
    """Calls of the service for operators. `warm_cache` uses methods of the base classes."""

    # -- caches ---------------------------------------------------------------------------

    def clear_user_cache(self, user_id: UUID | str) -> None:
        """Drop every cached value of one user: profile, active quests, portfolios.

        The list of the user's portfolios is read from the database. Raises `InvalidInput`.
        """
        checked = check_id(user_id, "user_id")
        portfolio_keys = self._read_current(list_portfolio_keys, checked)
        self._cache.invalidate([user_key(checked), quests_key(checked), *portfolio_keys])

    def clear_market_data_cache(self) -> None:
        """Drop the cached latest tick of every symbol, also if its ticks were deleted without the service.

        Cached summaries of prices, such as trends, stay: they expire within 30 s, or `invalidate_reports`
        drops them.
        """
        symbols = self._read_current(ticks.list_symbols)
        self._cache.invalidate(list_market_keys(symbols))

    def invalidate_reports(self) -> None:
        """Drop every cached report, so that the next reads ask the database.

        A report is an answer that summarises many rows, for example a summary of sessions or quests, a period
        leaderboard, a number of players or the trend of a price. A write of these rows does not invalidate a
        cached report: it stays until it expires. This call first checks that the database answers. If it does
        not, the call raises the error of the database, and drops nothing: the last known values stay cached.
        """
        self._read_current(server_statistics.read_clock)
        self._cache.invalidate([REPORTS_VERSION_KEY])

    def warm_cache(
        self,
        *,
        players: int = 100,
        limits: Sequence[int] = (10, 50, 100),
        on_progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Fill the cache with the keys that most pages read first. Return the number of keys.

        The keys are those of today's leaderboards at the given limits, of the latest tick of every symbol,
        and of the profile and active quests of the `players` most recently active players. The keys are
        filled in steps. A step fills all keys of one leaderboard, or up to 200 keys of another kind, with one
        look-up in the cache and one statement. After each step `on_progress` is called with the number of
        keys done and the total. Raises `InvalidInput`.
        """
        checked = sorted(set(check_each(limits, "limits", lambda limit: check_limit(limit, "limits"))))
        check_callable(on_progress, "on_progress")
        operation, count = "warm_cache", check_limit(players, "players")
        user_ids = [user.id for user in self._read(users.list_most_active, count)]
        symbols = list_accepted((tick.symbol for tick in self.get_latest_market_data()), check_symbol)
        categories = self.list_leaderboard_categories() if checked else ()
        warm_leaderboard = partial(self._warm_leaderboard, operation)
        steps: list[tuple[Callable[[], object], int]] = [
            *((partial(warm_leaderboard, category, checked), len(checked)) for category in categories),
            *_list_steps(self.get_latest_market_data, symbols),
            *_list_steps(partial(self._warm_users, operation), user_ids),
            *_list_steps(partial(self._warm_quests, operation), user_ids),
        ]
        done, total = 1, 1 + sum(keys for _, keys in steps)
        for step, keys in steps:
            step()
            done += keys
            if on_progress is not None:
                on_progress(done, total)
        self.metrics.count_task_success("warm_cache")
        return total

    def stale_seconds(self) -> float | None:
        """Return the age in seconds of the answer of the last cached read; None if the answer was fresh.

        A number means that the database did not answer, and that the read returned the last known value
        instead of an error. That value is never older than CACHE_FAILSAFE. The last cached read is that of
        the current thread or, in a coroutine, of the current task. Call `stale_seconds` where the read was
        made; with `asyncio.to_thread` that is inside the function that the thread runs.
        """
        return self._cache.stale_seconds

    def pool_stats(self) -> PoolStats:
        """Return the figures of this process's connection pool. Waits are in seconds."""
        return self._database.pool_stats()

    def cache_stats(self) -> CacheStats:
        """Return the counters of this process's cache since the service was opened, by kind of cache key."""
        return self._cache.stats()

    # -- the database server ----------------------------------------------------------------

    def list_table_sizes(self) -> tuple[TableFigures, ...]:
        """Return the size in bytes and the estimated number of rows of every table.

        The last entry, called `other`, is the sum of all tables that have no model in `core.models`.
        """
        return self._read_current(server_statistics.list_tables)

    def list_unused_indexes(self) -> tuple[UnusedIndex, ...]:
        """Return the indexes that no query used since the server's statistics were reset, largest first.

        Indexes of constraints are not listed. Queries on a replica are not counted.
        """
        return self._read_current(server_statistics.list_unused_indexes)

    def list_slowest_statements(self, limit: int = 10) -> tuple[StatementFigures, ...] | None:
        """Return the service's statements with the largest total time, in seconds.

        Returns None if the server does not keep pg_stat_statements. If two operations run the same statement,
        both are counted under the operation that ran it first. Raises `InvalidInput`.
        """
        return self._read_current(server_statistics.list_slowest_statements, check_limit(limit))


def _list_steps(
    warm: Callable[[list[T]], object], items: Sequence[T]
) -> Iterator[tuple[Callable[[], object], int]]:
    """Split the items into groups of WARM_KEYS. Yield a call that warms a group, and the group's size."""
    for chunk in chunked(items, WARM_KEYS):
        yield partial(warm, chunk), len(chunk)
