"""Every metric that a process of the stack writes, in one place.

Owns names, labels and buckets, and when counters that are kept elsewhere are published.
Where the values go is in `core.metric_files`. Never reads a server.
"""

import logging
import threading
from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Role = Literal["dashboard", "exporter", "simulator", "job"]

logger = logging.getLogger(__name__)

# From a warm point read (0.1 ms) to the default query timeout (30 s).
SECONDS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

# A scrape comes every 15 s; what a process counted in its last second is seen at its end.
PUBLISH_SECONDS = 1.0


class Metrics:
    """The metrics of one process; every series carries its role."""

    def __init__(self, role: Role, registry: CollectorRegistry) -> None:
        self.role = role
        self.registry = registry
        self._sources: list[Callable[[], None]] = []
        self._publishing = threading.Lock()
        self._publisher: threading.Thread | None = None
        self._closing = threading.Event()
        self._define_pool(role, registry)
        self._define_operations(registry)
        self._define_cache(registry)
        self.cache_breaker_open = Gauge(
            "echo_cache_breaker_open",
            "1 while Redis is bypassed",
            ["role"],
            registry=registry,
            multiprocess_mode="livemax",
        ).labels(role)
        self.metrics_writers = Gauge(
            "echo_metrics_writers",
            "Live processes that write metrics",
            ["role"],
            registry=registry,
            multiprocess_mode="livesum",
        ).labels(role)
        self.metrics_writers.set(1)

    def _define_pool(self, role: Role, registry: CollectorRegistry) -> None:
        connections = Gauge(
            "echo_db_pool_connections",
            "Connections held by pools",
            ["role", "state"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.pool_idle = connections.labels(role, "idle")
        self.pool_used = connections.labels(role, "used")
        self.pool_max = Gauge(
            "echo_db_pool_max_connections",
            "Connections that pools may hold",
            ["role"],
            registry=registry,
            multiprocess_mode="livesum",
        ).labels(role)
        self.pool_pending = Gauge(
            "echo_db_pool_pending_requests",
            "Checkouts that wait",
            ["role"],
            registry=registry,
            multiprocess_mode="livesum",
        ).labels(role)
        self.pool_wait_seconds = self._seconds("echo_db_pool_wait_seconds", "Wait for a checkout")
        self.pool_use_seconds = self._seconds("echo_db_pool_use_seconds", "Time a connection is held")
        self.pool_create_seconds = self._seconds("echo_db_pool_create_seconds", "Time to connect")
        self.pool_timeouts = Counter(
            "echo_db_pool_timeouts_total", "Checkouts given up", ["role"], registry=registry
        ).labels(role)
        self._pool_closed = Counter(
            "echo_db_pool_closed_total", "Connections closed", ["role", "reason"], registry=registry
        )

    def _seconds(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, ["role"], registry=self.registry, buckets=SECONDS_BUCKETS).labels(
            self.role
        )

    def _define_operations(self, registry: CollectorRegistry) -> None:
        self._operation_seconds = Histogram(
            "echo_db_operation_duration_seconds",
            "Database part of a service call",
            ["op", "role"],
            registry=registry,
            buckets=SECONDS_BUCKETS,
        )
        self._operation_errors = Counter(
            "echo_db_operation_errors_total",
            "Service calls whose database part failed",
            ["op", "role", "sqlstate_class"],
            registry=registry,
        )

    def _define_cache(self, registry: CollectorRegistry) -> None:
        tiers = ["cache", "tier", "role"]
        self._cache_requests = Counter(
            "echo_cache_requests_total", "Values asked of a tier", tiers, registry=registry
        )
        self._cache_hits = Counter("echo_cache_hits_total", "Values a tier had", tiers, registry=registry)
        self._cache_misses = Counter(
            "echo_cache_misses_total", "Values a tier did not have", tiers, registry=registry
        )
        self._cache_bypasses = Counter(
            "echo_cache_bypasses_total",
            "Values read past the cache",
            ["cache", "role", "reason"],
            registry=registry,
        )
        self._cache_invalidations = Counter(
            "echo_cache_invalidations_total",
            "Keys dropped because the data changed",
            ["cache", "role"],
            registry=registry,
        )
        self._cache_refused = Counter(
            "echo_cache_stale_fills_refused_total",
            "Fills refused because the data changed while they were loaded",
            ["cache", "role"],
            registry=registry,
        )
        self.cache_stale_served = Counter(
            "echo_cache_stale_served_total",
            "Last known values served because the database could not be asked",
            ["role"],
            registry=registry,
        ).labels(self.role)
        self._cache_samples = Counter(
            "echo_cache_stale_read_samples_total",
            "Hits that were compared with the database",
            tiers,
            registry=registry,
        )
        self._cache_stale_reads = Counter(
            "echo_cache_stale_reads_total",
            "Hits that were compared with the database and disagreed",
            tiers,
            registry=registry,
        )
        self._cache_load_seconds = Histogram(
            "echo_cache_load_seconds",
            "What a miss costs",
            ["cache"],
            registry=registry,
            buckets=SECONDS_BUCKETS,
        )

    def add_source(self, publish: Callable[[], None]) -> None:
        """Let `publish` bring its counters up to date whenever the metrics are published."""
        self._sources.append(publish)

    def start_publishing(self) -> None:
        """Publish every second from now on: others read the values from files, and ask nobody."""
        self._publisher = threading.Thread(target=self._publish_regularly, name="metrics", daemon=True)
        self._publisher.start()

    def _publish_regularly(self) -> None:
        while not self._closing.wait(PUBLISH_SECONDS):
            self.publish()

    def close(self) -> None:
        """Publish for the last time."""
        self._closing.set()
        if self._publisher is not None:
            self._publisher.join()
        self.publish()

    def publish(self) -> None:
        """Bring every counter up to date; some are summed up elsewhere, where counting is cheap."""
        with self._publishing:
            for source in self._sources:
                source()

    def count_pool_closed(self, reason: Literal["stale", "dead", "broken", "shutdown"]) -> None:
        """Count a connection that the pool closed."""
        self._pool_closed.labels(self.role, reason).inc()

    def observe_operation(self, operation: str, seconds: float) -> None:
        """Record the database part of one service call."""
        self._operation_seconds.labels(operation, self.role).observe(seconds)

    def count_operation_error(self, operation: str, sqlstate_class: str) -> None:
        """Count a failed database part; the class is the first two characters of the SQLSTATE."""
        self._operation_errors.labels(operation, self.role, sqlstate_class).inc()

    def count_cache_reads(
        self, cache: str, tier: Literal["near", "shared"], *, hits: int, misses: int
    ) -> None:
        """Count values asked of a tier that it answered for."""
        labels = (cache, tier, self.role)
        self._cache_requests.labels(*labels).inc(hits + misses)
        self._cache_hits.labels(*labels).inc(hits)
        self._cache_misses.labels(*labels).inc(misses)

    def count_cache_bypasses(self, cache: str, reason: str, count: int) -> None:
        """Count values asked of the shared tier that were read past it."""
        self._cache_requests.labels(cache, "shared", self.role).inc(count)
        self._cache_bypasses.labels(cache, self.role, reason).inc(count)

    def count_cache_invalidations(self, cache: str, count: int) -> None:
        """Count keys dropped because the data changed."""
        self._cache_invalidations.labels(cache, self.role).inc(count)

    def count_stale_fills_refused(self, cache: str, count: int) -> None:
        """Count fills refused because their lease was gone."""
        self._cache_refused.labels(cache, self.role).inc(count)

    def count_stale_read_sample(self, cache: str, tier: Literal["near", "shared"], *, is_stale: bool) -> None:
        """Count a hit that was compared with the database, and whether it disagreed."""
        labels = (cache, tier, self.role)
        self._cache_samples.labels(*labels).inc()
        self._cache_stale_reads.labels(*labels).inc(int(is_stale))

    def observe_cache_load(self, cache: str, seconds: float) -> None:
        """Record what loading a missing value cost."""
        self._cache_load_seconds.labels(cache).observe(seconds)
