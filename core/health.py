"""Says whether the stack can serve: one evaluation for the JSON, the metrics and the dashboard.

Owns the checks and what follows from them. Each runs in a thread of its own within a
second, on a connection of its own: an exhausted pool is reported, not waited for.
Reads only; no text of an error leaves this module, because it may name an address.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import datetime
from typing import Any

import psycopg2
import redis

from core.cache.shared import connect_redis
from core.database.database import connection_parameters
from core.migration import MIGRATIONS_DIR, count_pending
from core.records import Health, PoolStats
from core.settings import Settings

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0


class HealthEvaluator:
    """Evaluates the health of the services that `settings` name; thread safe."""

    def __init__(
        self,
        settings: Settings,
        *,
        pool_stats: Callable[[], PoolStats],
        clock: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._pool_stats = pool_stats
        self._clock = clock
        # a check of a server that hangs keeps its thread until its own timeout
        self._executor = ThreadPoolExecutor(max_workers=8, thread_name_prefix="health")
        self._redis: redis.Redis | None = None
        self._lock = threading.Lock()

    def evaluate(self) -> Health:
        """Run the checks side by side and return what they found, within about a second."""
        started = time.perf_counter()
        enabled = self._settings.enable_redis_cache
        database = self._executor.submit(_timed, self._check_database)
        cache = self._executor.submit(_timed, self._check_redis) if enabled else None
        pending, database_seconds = _result(database, started)
        answered, redis_seconds = _result(cache, started) if cache else (None, 0.0)
        pool = self._pool_stats()
        return Health(
            status=_overall(pending, answered=answered, redis_enabled=enabled, pool=pool),
            timestamp=self._clock(),
            database="unhealthy" if pending is None else "healthy",
            database_seconds=database_seconds,
            migrations_pending=pending,
            redis="disabled" if not enabled else "healthy" if answered else "unhealthy",
            redis_enabled=enabled,
            redis_seconds=redis_seconds,
            pool=pool,
        )

    def close(self) -> None:
        """Stop the checks."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            if self._redis is not None:
                self._redis.close()

    def _check_database(self) -> int:
        """Return how many migrations are pending; connecting is part of the check."""
        parameters = connection_parameters(self._settings, "echo-markets-health")
        parameters |= {
            "connect_timeout": 2,
            "options": f"-c statement_timeout={round(CHECK_SECONDS * 1000)}",
            "tcp_user_timeout": round(CHECK_SECONDS * 1000),
        }
        url = self._settings.database_url.get_secret_value()
        connection = psycopg2.connect(url, **parameters)
        try:
            with connection.cursor() as cursor:
                return count_pending(cursor, MIGRATIONS_DIR)
        finally:
            connection.close()

    def _check_redis(self) -> bool:
        with self._lock:
            if self._redis is None:
                self._redis = connect_redis(self._settings, "echo-markets-health")
        return bool(self._redis.ping())


def _timed(check: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return check(), time.perf_counter() - started


def _result(check: "Future[tuple[Any, float]]", started: float) -> tuple[Any, float]:
    """Return what a check found and how long it took; None when it failed or is not done."""
    remaining = max(0.0, CHECK_SECONDS - (time.perf_counter() - started))
    try:
        found: tuple[Any, float] = check.result(timeout=remaining)
    except (psycopg2.Error, redis.RedisError, OSError, FutureTimeout, RuntimeError) as error:
        logger.debug("a health check failed: %s", type(error).__name__)
        return None, time.perf_counter() - started
    return found


def _overall(pending: int | None, *, answered: bool | None, redis_enabled: bool, pool: PoolStats) -> str:
    if pending is None:
        return "unhealthy"
    is_exhausted = pool.requests_waiting > 0 and pool.pool_in_use >= pool.pool_max
    if pending or is_exhausted or (redis_enabled and not answered):
        return "degraded"
    return "healthy"
