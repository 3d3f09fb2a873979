"""Evaluates the health of the stack, for the health document, the metrics, the pages and the command line.

Owns the checks of PostgreSQL and Redis, and the rules for the status of the stack and for an exhausted pool.
Each check has a thread and a connection of its own, so an exhausted pool does not delay it. A check may take
at most a second. It writes only scratch keys in Redis. The reason why a service is not healthy contains no
address.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar, get_args

import psycopg2
from prometheus_client import Metric
from prometheus_client.samples import Sample

from core.cache.capability import Diagnosis, RedisProbe
from core.database.bounded_connection import BoundedConnector
from core.database.driver_errors import describe_refusal, translate_connect
from core.errors import ConnectionsExhausted, MigrationFailed
from core.forks import call_in_forked_child
from core.metrics import Metrics, names
from core.metrics.scrape import Scrape, list_samples
from core.migration import MigrationCount, count_migrations
from core.records import Health, PoolStats, PoolUse
from core.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

CLIENT_NAME = f"{names.APPLICATION_PREFIX}health"
CHECK_SECONDS = 1.0
# Within this time, all callers get the result of the same evaluation.
CACHE_SECONDS = 2.0
# A caller waits for the evaluation of another caller this much longer than an evaluation may take.
GRACE_SECONDS = 0.2


class CheckResult(NamedTuple, Generic[T]):
    """The diagnosis of a check (None if the check failed), and the duration of the check in seconds."""

    diagnosis: T | None
    seconds: float


class DatabaseDiagnosis(NamedTuple):
    """The diagnosis of the database; `reason` is None if nothing is wrong.

    `is_full` is True if the server accepts no further connection.
    """

    migrations: MigrationCount | None = None
    reason: str | None = None
    is_read_only: bool = False
    is_full: bool = False


class HealthEvaluator:
    """Evaluates the health of PostgreSQL, Redis and the connection pools; thread safe.

    `list_pools` returns how much of each pool is used, for this process or for all processes of the host. It
    must not wait. `find_bypass` returns the reason why the cache of this process bypasses Redis or the near
    cache, or None if it uses both.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        list_pools: Callable[[], Sequence[PoolUse]],
        clock: Callable[[], datetime],
        find_bypass: Callable[[], str | None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._list_pools = list_pools
        self._clock = clock
        self._find_bypass = find_bypass
        self._monotonic = monotonic
        self._connector = BoundedConnector(settings, CLIENT_NAME, limit_seconds=CHECK_SECONDS)
        self._redis_probe = (
            RedisProbe(settings, client_name=CLIENT_NAME) if settings.enable_redis_cache else None
        )
        self._reset_after_fork()
        call_in_forked_child(self._reset_after_fork)

    def _reset_after_fork(self) -> None:
        """Forget the last result and the running checks: a forked child does not have their threads."""
        self._evaluating = threading.Lock()
        self._last: Health | None = None
        self._last_at = float("-inf")
        self._database_check = _Check("database", self._examine_database)
        self._redis_check = _Check("redis", self._examine_redis)

    def evaluate(self, limit_seconds: float = CHECK_SECONDS) -> Health:
        """Check PostgreSQL and Redis in parallel, and return the health, at most two seconds old.

        `timestamp` of the health is the time when the checks began. The checks may take `limit_seconds`,
        but at most one second. A check that has not ended by then counts as failed. A call during the
        evaluation of another call waits for the result of that evaluation.
        """
        limit_seconds = min(limit_seconds, CHECK_SECONDS)
        deadline = time.monotonic() + limit_seconds
        is_mine = self._evaluating.acquire(timeout=limit_seconds + GRACE_SECONDS)
        try:
            if self._last is not None and self._monotonic() - self._last_at < CACHE_SECONDS:
                return self._last
            # read the clocks before the checks: a result must not seem newer than it is
            asked_at, timestamp = self._monotonic(), self._clock()
            health = self._run(deadline, timestamp)
            if limit_seconds == CHECK_SECONDS:
                # keep a result only if the checks had the full time: with less time, a healthy server may
                # fail them
                self._last, self._last_at = health, asked_at
            return health
        finally:
            if is_mine:
                self._evaluating.release()

    def _run(self, deadline: float, timestamp: datetime) -> Health:
        self._database_check.start()
        if self._redis_probe is not None:
            self._redis_check.start()
        database, database_seconds = self._database_check.result(deadline)
        database = database or DatabaseDiagnosis(reason=f"no answer within {database_seconds:.1f} s")
        redis, redis_seconds = self._diagnose_redis(deadline)
        pool = add_up_pools(self._list_pools())
        state = _find_database_status(database, pool)
        migrations = database.migrations
        return Health(
            status=self._overall(state, migrations, redis=redis, pool=pool),
            timestamp=timestamp,
            database=state,
            database_seconds=database_seconds,
            database_reason=database.reason,
            is_read_only=database.is_read_only,
            migrations_pending=migrations and migrations.pending,
            migrations_applied=migrations and migrations.applied,
            redis=_find_redis_status(redis),
            redis_enabled=self._redis_probe is not None,
            redis_seconds=redis_seconds,
            redis_reason=redis and redis.reason,
            pool=pool,
        )

    def _diagnose_redis(self, deadline: float) -> tuple[Diagnosis | None, float]:
        """Return the diagnosis of Redis (None if it is disabled) and the duration of the check in seconds."""
        if self._redis_probe is None:
            return None, 0.0
        diagnosis, seconds = self._redis_check.result(deadline)
        diagnosis = diagnosis or Diagnosis(is_usable=False, reason=f"no answer within {seconds:.1f} s")
        bypass = self._find_bypass()
        if diagnosis.reason is None and bypass is not None:
            # Redis has passed the check, but the cache of this process does not use it yet
            diagnosis = Diagnosis(is_usable=True, reason=f"this process: {bypass}")
        return diagnosis, seconds

    def _overall(
        self, database: str, migrations: MigrationCount | None, *, redis: Diagnosis | None, pool: PoolUse
    ) -> str:
        is_redis_down = redis is not None and not redis.is_usable
        if database == "unhealthy" or (is_redis_down and self._settings.health_require_redis):
            return "unhealthy"
        is_behind = migrations is not None and migrations.pending > 0
        is_cache_limited = redis is not None and redis.reason is not None
        is_limited = database == "degraded" or is_behind or is_cache_limited or pool.is_exhausted
        return "degraded" if is_limited else "healthy"

    def _examine_database(self) -> DatabaseDiagnosis:
        """Check the database on a new connection, to notice a server that accepts no more connections."""
        try:
            connection = self._connector.open()
        except psycopg2.Error as error:
            is_full = isinstance(translate_connect(error), ConnectionsExhausted)
            return DatabaseDiagnosis(reason=describe_refusal(error), is_full=is_full)
        try:
            migrations = count_migrations(connection.execute_sql)
        except psycopg2.Error as error:
            return DatabaseDiagnosis(reason=describe_refusal(error))
        except MigrationFailed as error:
            return DatabaseDiagnosis(reason=str(error))  # the installation has no migration files
        finally:
            connection.close()
        facts = connection.facts
        if facts.is_standby or facts.is_read_only:
            cause = "it is a standby" if facts.is_standby else "default_transaction_read_only is on"
            return DatabaseDiagnosis(migrations, reason=f"it accepts no writes: {cause}", is_read_only=True)
        return DatabaseDiagnosis(migrations)

    def _examine_redis(self) -> Diagnosis | None:
        """Run the capability check on a new connection to Redis."""
        return None if self._redis_probe is None else self._redis_probe.examine()


def _find_database_status(database: DatabaseDiagnosis, pool: PoolUse) -> str:
    if database.migrations is not None:
        return "degraded" if database.is_read_only else "healthy"
    # a server that has no connection left refuses new ones, but the open connections of a pool still work
    return "degraded" if database.is_full and pool.pool_size else "unhealthy"


def _find_redis_status(diagnosis: Diagnosis | None) -> str:
    if diagnosis is None:
        return "disabled"
    if not diagnosis.is_usable:
        return "unhealthy"
    return "healthy" if diagnosis.reason is None else "degraded"


class _Check(Generic[T]):
    """A check that runs in a thread of its own, one run at a time."""

    def __init__(self, name: str, check: Callable[[], T]) -> None:
        self._name = name
        self._check = check
        self._running: Future[CheckResult[T]] = Future()
        self._running.cancel()
        self._started = 0.0

    def start(self) -> None:
        """Start the check if its last run has ended: threads must not pile up while a server hangs."""
        if self._running.done():
            self._running, self._started = Future(), time.monotonic()
            name = f"health-{self._name}"
            arguments = (self._running, self._started)
            threading.Thread(target=self._run, args=arguments, name=name, daemon=True).start()

    def _run(self, running: "Future[CheckResult[T]]", started: float) -> None:
        try:
            diagnosis = self._check()
            # measure the duration here: a caller may begin to wait in the middle of this run
            running.set_result(CheckResult(diagnosis, time.monotonic() - started))
        except Exception as error:
            # catch every error: after any of them, the server counts as unhealthy
            logger.debug("the health check of %s failed: %s", self._name, type(error).__name__)
            running.set_exception(error)

    def result(self, deadline: float) -> CheckResult[T]:
        """Wait for the check until `deadline` (by `time.monotonic`), and return its result.

        The diagnosis in the result is None if the check failed or has not ended.
        """
        started = self._started
        try:
            return self._running.result(timeout=max(0.0, deadline - time.monotonic()))
        except Exception as error:
            if isinstance(error, FutureTimeout):
                logger.debug("the health check of %s takes too long", self._name)
            return CheckResult(None, time.monotonic() - started)


def describe_pool(stats: PoolStats) -> PoolUse:
    """Return how much of this process's pool is used. A pool is exhausted if a checkout has to wait."""
    return PoolUse(
        pool_max=stats.pool_max,
        pool_size=stats.pool_size,
        pool_available=stats.pool_available,
        pool_in_use=stats.pool_in_use,
        requests_waiting=stats.requests_waiting,
        is_exhausted=stats.pool_size >= stats.pool_max and stats.pool_available == 0,
    )


def read_pool(gauges: Iterable[Sample]) -> PoolUse:
    """Return how much of another process's pool is used; all values are 0 if the process has no pool."""
    limit_name, waiting_name = names.POOL_MAX.name, names.POOL_PENDING.name
    counts = dict.fromkeys((limit_name, waiting_name, "idle", "used"), 0)
    for sample in gauges:
        key = sample.labels["state"] if sample.name == names.POOL_CONNECTIONS.name else sample.name
        if key in counts:
            counts[key] += int(sample.value)
    limit, used, idle = counts[limit_name], counts["used"], counts["idle"]
    return PoolUse(
        pool_max=limit,
        pool_size=used + idle,
        pool_available=idle,
        pool_in_use=used,
        requests_waiting=counts[waiting_name],
        is_exhausted=0 < limit <= used,
    )


def add_up_pools(pools: Sequence[PoolUse]) -> PoolUse:
    """Return the sum of all pools.

    It counts as exhausted if any pool is exhausted: a process cannot use the pool of another process.
    """
    return PoolUse(
        pool_max=sum(pool.pool_max for pool in pools),
        pool_size=sum(pool.pool_size for pool in pools),
        pool_available=sum(pool.pool_available for pool in pools),
        pool_in_use=sum(pool.pool_in_use for pool in pools),
        requests_waiting=sum(pool.requests_waiting for pool in pools),
        is_exhausted=any(pool.is_exhausted for pool in pools),
    )


def build_health_metrics(health: Health) -> Iterator[Metric]:
    """Yield the metrics that describe this health."""
    up = {("database",): float(health.database != "unhealthy")}
    seconds = {("database",): health.database_seconds}
    if health.redis_enabled:
        up["redis",] = float(health.redis != "unhealthy")
        seconds["redis",] = health.redis_seconds
    yield names.SERVICE_UP.build(up)
    yield names.SERVICE_CHECK_SECONDS.build(seconds)
    statuses = get_args(names.HealthStatus)
    yield names.HEALTH_STATUS.build({(status,): float(status == health.status) for status in statuses})
    if health.migrations_applied is not None:
        yield names.MIGRATIONS_APPLIED.build(health.migrations_applied)
    if health.migrations_pending is not None:
        yield names.MIGRATIONS_PENDING.build(health.migrations_pending)


def scrape_own(metrics: Metrics, health: Health) -> Scrape:
    """Return the metrics of this process and the health, in the same form as a scrape of the exporter."""
    metrics.publish()
    families = [*metrics.collect_own(), *build_health_metrics(health)]
    reasons = {"database": health.database_reason, "redis": health.redis_reason}
    return Scrape(
        list_samples(families),
        taken_at=health.timestamp,
        reasons={name: reason for name, reason in reasons.items() if reason},
    )
