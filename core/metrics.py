"""Every metric that a process of the stack writes, in one place.

Owns names, labels and buckets, and where the values go: with a metrics directory
they are prometheus_client's multiprocess files, which the exporter reads for the
whole fleet; without one they stay in this process. Never reads a server.
"""

import errno
import fcntl
import logging
import os
import socket
import time
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values

Role = Literal["dashboard", "exporter", "simulator", "job"]

logger = logging.getLogger(__name__)

# From a warm point read (0.1 ms) to the default query timeout (30 s).
SECONDS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

# Held for the life of the process: the flock on it tells the exporter that the writer lives.
_writer_locks: dict[Path, int] = {}


class Metrics:
    """The metrics of one process; every series carries its role."""

    def __init__(self, role: Role, registry: CollectorRegistry) -> None:
        self.role = role
        self.registry = registry
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
        self._cache_load_seconds = Histogram(
            "echo_cache_load_seconds",
            "What a miss costs",
            ["cache"],
            registry=registry,
            buckets=SECONDS_BUCKETS,
        )

    def count_pool_closed(self, reason: Literal["stale", "dead", "broken", "shutdown"]) -> None:
        """Count a connection that the pool closed."""
        self._pool_closed.labels(self.role, reason).inc()

    def observe_operation(self, operation: str, seconds: float) -> None:
        """Record the database part of one service call."""
        self._operation_seconds.labels(operation, self.role).observe(seconds)

    def count_operation_error(self, operation: str, sqlstate_class: str) -> None:
        """Count a failed database part; the class is the first two characters of the SQLSTATE."""
        self._operation_errors.labels(operation, self.role, sqlstate_class).inc()

    def count_cache_reads(self, cache: str, *, hits: int, misses: int) -> None:
        """Count values asked of the shared tier that it answered for."""
        labels = (cache, "shared", self.role)
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

    def observe_cache_load(self, cache: str, seconds: float) -> None:
        """Record what loading a missing value cost."""
        self._cache_load_seconds.labels(cache).observe(seconds)


def writer_id() -> str:
    """Return an id for this process's files that no other process on the host shares.

    Containers share pid 1 and prometheus_client splits file names at underscores, so
    the id is host, pid and start, without underscores.
    """
    host = socket.gethostname().replace("_", "-") or "host"
    return f"{host}-{os.getpid()}-{_STARTED_NS}"


_STARTED_NS = time.time_ns()


def open_metrics(role: Role, directory: Path | None) -> Metrics:
    """Define this process's metrics, in `directory` when it can be written.

    A directory that cannot be used costs one warning; the metrics then stay in
    this process and the application goes on.
    """
    if directory is not None and directory not in _writer_locks:
        try:
            _join(directory)
        except OSError as error:
            logger.warning("metrics stay in this process: %s cannot be used: %s", directory, error)
    return Metrics(role, CollectorRegistry())


def _join(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    lock = os.open(directory / f"{writer_id()}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _writer_locks[directory] = lock
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    values.ValueClass = values.MultiProcessValue(process_identifier=writer_id)  # type: ignore[no-untyped-call]  # prometheus_client has no annotations there


def remove_dead_gauges(directory: Path) -> None:
    """Remove the live gauges of writers that ended; their counters stay.

    A writer is dead when nobody holds the lock on its file.
    """
    for lock_file in directory.glob("*.lock"):
        if _is_held(lock_file):
            continue
        writer = lock_file.stem
        for gauge in directory.glob(f"gauge_live*_{writer}.db"):
            gauge.unlink(missing_ok=True)
        lock_file.unlink(missing_ok=True)


def _is_held(lock_file: Path) -> bool:
    if lock_file.stem == writer_id():
        return True
    try:
        handle = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in {errno.EAGAIN, errno.EACCES}
    finally:
        os.close(handle)
    return False
