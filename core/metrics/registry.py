"""The metrics of one process: a method or an attribute for each metric that its code sets.

Owns publishing: once a second, values that other objects keep (pool, cache) are copied into the metrics.
Names and labels are in `core.metrics.names`. Never asks a server.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

from prometheus_client import Metric
from prometheus_client.samples import Sample

from core.forks import call_in_forked_child
from core.metrics import names
from core.metrics.fleet import LOCK_SECONDS, FleetReader
from core.metrics.merge import format_bound
from core.metrics.names import (
    SECONDS_BUCKETS,
    AuditedAction,
    CloseReason,
    Definition,
    Limiter,
    ReadReason,
    Role,
    Task,
    Tier,
    check_role,
)
from core.metrics.writer import MetricWriter, Prefix, Value, build_key

# Interval of publishing. It is short enough for a scrape every 15 s. A process that ends publishes once more.
PUBLISH_SECONDS = 1.0


class Distribution:
    """The buckets of a histogram for one set of labels. Their counts are not cumulative here."""

    def __init__(self, buckets: list[Value], total: Value) -> None:
        self._buckets = buckets
        self._total = total

    def observe(self, seconds: float) -> None:
        """Record one duration."""
        self._total.inc(seconds)
        self._buckets[bisect_left(SECONDS_BUCKETS, seconds)].inc()


class Metrics:
    """The metrics of one process; thread safe."""

    def __init__(self, role: Role) -> None:
        """Create the metrics, in memory only. Raises `InvalidInput` if `check_role` refuses `role`."""
        self.role = check_role(role)
        self.writer = MetricWriter()
        self._fleet = FleetReader(self.writer, None)
        self._values: dict[tuple[str, ...], Value] = {}
        self._distributions: dict[tuple[str, ...], Distribution] = {}
        self._sources: list[Callable[[], None]] = []
        self._publishing = threading.Lock()
        self._publisher: threading.Thread | None = None
        self._closing = threading.Event()

        self.pool_idle = self._value(names.POOL_CONNECTIONS, "idle")
        self.pool_used = self._value(names.POOL_CONNECTIONS, "used")
        self.pool_max = self._value(names.POOL_MAX)
        self.pool_pending = self._value(names.POOL_PENDING)
        self.pool_timeouts = self._value(names.POOL_TIMEOUTS)
        self.pool_wait_seconds = self._distribution(names.POOL_WAIT)
        self.pool_use_seconds = self._distribution(names.POOL_USE)
        self.pool_create_seconds = self._distribution(names.POOL_CREATE)
        self.cache_stale_served = self._value(names.CACHE_STALE_SERVED)
        self.cache_breaker_open = self._value(names.CACHE_BREAKER_OPEN)
        self.cache_primary_changes = self._value(names.CACHE_PRIMARY_CHANGES)
        self.dashboard_sessions = self._value(names.DASHBOARD_SESSIONS)
        for definition, labels in names.CLOSED_LABELS.items():
            for label in labels:
                self._value(definition, label)
        self._value(names.WRITERS).set(1)
        call_in_forked_child(self._reset_after_fork)

    def _value(self, definition: Definition, *labels: str) -> Value:
        """Return the number for these labels (without the role). From now on, scrapes show it."""
        value = self._values.get((definition.name, *labels))
        if value is None:
            value = self._create(definition, definition.name, labels)
            self._values[definition.name, *labels] = value
        return value

    def _distribution(self, definition: Definition, *labels: str) -> Distribution:
        """Return the distribution for these labels (without the role). From now on, scrapes show it."""
        found = self._distributions.get((definition.name, *labels))
        if found is None:
            total = self._create(definition, f"{definition.name}_sum", labels)
            buckets = [
                self._create(definition, f"{definition.name}_bucket", labels, le=format_bound(bound))
                for bound in (*SECONDS_BUCKETS, float("inf"))
            ]
            found = self._distributions[definition.name, *labels] = Distribution(buckets, total)
        return found

    def _create(self, definition: Definition, sample: str, labels: tuple[str, ...], **extra: str) -> Value:
        others = [name for name in definition.labels if name != "role"]
        values = dict(zip(others, labels, strict=True), **extra)
        if "role" in definition.labels:
            values["role"] = self.role
        prefix = f"gauge_{definition.mode}" if definition.kind == "gauge" else definition.kind
        metric = definition.name.removesuffix("_total")
        return self.writer.value(build_key(cast(Prefix, prefix), metric, sample, values, definition.text))

    # -- run --------------------------------------------------------------------------

    def share(self, directory: Path) -> None:
        """Write the values to files in `directory` too, where other processes read them.

        A missing folder is created. If the folder cannot be used, one warning is logged, and the values stay
        in this process.
        """
        self.writer.join(directory)
        self._fleet = FleetReader(self.writer, directory)
        if self.writer.is_shared:
            self._start_publishing()

    def collect(self, *, limit_seconds: float = LOCK_SECONDS) -> list[Metric]:
        """Return the metrics of this process and of all processes that share its folder.

        The metrics of this process are current. Those of other processes are up to a second old. Raises
        `TimeoutError` if another exporter holds the lock on the folder for `limit_seconds` (at most two).
        """
        self.publish()
        return self._fleet.collect(limit_seconds)

    def collect_own(self) -> list[Metric]:
        """Return the metrics of this process alone.

        Does not publish: values of other objects (pool, cache) are those of the last `publish`.
        """
        return self._fleet.collect_own()

    def list_gauges(self) -> list[list[Sample]]:
        """Return the `livesum` gauges of each other live process that shares the folder, up to 1 s old."""
        return self._fleet.list_gauges()

    def list_roles(self) -> set[Role]:
        """Return the roles of the live processes that share the folder, and the role of this process."""
        samples = (sample for gauges in self.list_gauges() for sample in gauges)
        return {self.role} | {item.labels["role"] for item in samples if item.name == names.WRITERS.name}

    def add_source(self, publish: Callable[[], None]) -> None:
        """Register a function that `Metrics.publish` calls to copy an object's values into the metrics."""
        self._sources.append(publish)

    def publish(self) -> None:
        """Copy the values that other objects keep into the metrics. Counting is cheaper in these objects."""
        with self._publishing:
            for source in self._sources:
                source()

    def close(self) -> None:
        """Publish for the last time, then close the files.

        The exporter keeps the counters, histograms and `mostrecent` gauges of this process.
        """
        self._closing.set()
        if self._publisher is not None:
            self._publisher.join()
        self.publish()
        self.writer.close()

    def _start_publishing(self) -> None:
        """Publish every second from now on, because other processes read only the files."""
        self._publisher = threading.Thread(target=self._publish_regularly, name="metrics", daemon=True)
        self._publisher.start()

    def _publish_regularly(self) -> None:
        while not self._closing.wait(PUBLISH_SECONDS):
            self.publish()

    def _reset_after_fork(self) -> None:
        """Start again in a forked child: it has no publishing thread, and a lock may be held forever."""
        self.writer.reset_after_fork()
        self._fleet = FleetReader(self.writer, self._fleet.directory)
        self._publishing = threading.Lock()
        self._value(names.WRITERS).set(1)
        if self._publisher is not None and not self._closing.is_set():
            self._closing = threading.Event()
            self._start_publishing()

    # -- counters ---------------------------------------------------------------------

    def count_pool_closed(self, reason: CloseReason) -> None:
        """Count a connection that the pool closed."""
        self._value(names.POOL_CLOSED, reason).inc()

    def observe_operation(self, operation: str, seconds: float) -> None:
        """Record how long the database part of a service call took."""
        self._distribution(names.OPERATION_SECONDS, operation).observe(seconds)

    def count_operation_error(self, operation: str, sqlstate_class: str) -> None:
        """Count a service call whose database part failed.

        `sqlstate_class` is the first two characters of the SQLSTATE, or `pool` for an error of the pool.
        """
        self._value(names.OPERATION_ERRORS, operation, sqlstate_class).inc()

    def set_cache_topology(self, topology: str) -> None:
        """Record how this process reaches Redis: `single`, `sentinel` or `cluster`."""
        self._value(names.CACHE_TOPOLOGY, topology).set(1)

    def count_read(self, server: Literal["primary", "replica"], reason: ReadReason) -> None:
        """Count a read that could run on a replica, by the server on which it ran and the reason."""
        self._value(names.READS, server, reason).inc()

    def set_replica(self, number: int, *, lag_seconds: float | None, is_out: bool) -> None:
        """Set the gauges of a replica. `is_out` is True while reads do not use the replica.

        If the lag is unknown (None), its gauge keeps the last value.
        """
        self._value(names.REPLICA_OUT, str(number)).set(float(is_out))
        if lag_seconds is not None:
            self._value(names.REPLICA_LAG, str(number)).set(lag_seconds)

    def count_cache_reads(self, cache: str, tier: Tier, *, hits: int, misses: int) -> None:
        """Count values that were looked up in a cache tier that answered."""
        self._value(names.CACHE_REQUESTS, cache, tier).inc(hits + misses)
        self._value(names.CACHE_HITS, cache, tier).inc(hits)
        self._value(names.CACHE_MISSES, cache, tier).inc(misses)

    def count_cache_bypasses(self, cache: str, reason: str, count: int) -> None:
        """Count values that were read without asking the shared cache."""
        self._value(names.CACHE_REQUESTS, cache, "shared").inc(count)
        self._value(names.CACHE_BYPASSES, cache, reason).inc(count)

    def count_cache_invalidations(self, cache: str, count: int) -> None:
        """Count cache keys that were invalidated because the data changed."""
        self._value(names.CACHE_INVALIDATIONS, cache).inc(count)

    def count_stale_fills_refused(self, cache: str, count: int) -> None:
        """Count values that were not stored in the cache because their lease was gone."""
        self._value(names.CACHE_FILLS_REFUSED, cache).inc(count)

    def count_stale_read_sample(self, cache: str, tier: Tier, *, is_stale: bool) -> None:
        """Count a cache hit that was compared with the database, and whether it was stale."""
        self._value(names.CACHE_SAMPLES, cache, tier).inc()
        self._value(names.CACHE_STALE_READS, cache, tier).inc(int(is_stale))

    def observe_cache_load(self, cache: str, seconds: float) -> None:
        """Record how long it took to load a value that the cache did not have."""
        self._distribution(names.CACHE_LOAD, cache).observe(seconds)

    def observe_render(self, page: str, seconds: float) -> None:
        """Record how long the script of a page took. `page` is the title of the page in lower case."""
        self._distribution(names.DASHBOARD_RENDER, page).observe(seconds)

    def count_limited(self, limiter: Limiter, is_rejected: bool) -> None:  # noqa: FBT001  # a callback
        """Count a request that a rate limiter accepted or rejected."""
        self._value(names.LIMITER_REQUESTS, limiter).inc()
        self._value(names.LIMITER_REJECTIONS, limiter).inc(int(is_rejected))

    def count_audit_event(self, action: AuditedAction) -> None:
        """Count a person's action that was written to the audit log."""
        self._value(names.AUDIT_EVENTS, action).inc()

    def count_audit_write_failure(self, action: AuditedAction) -> None:
        """Count a person's action that could not be written to the audit log."""
        self._value(names.AUDIT_FAILURES, action).inc()

    def record_audit_verification(self, *, is_intact: bool) -> None:
        """Record that the audit log was verified now, and whether it was intact."""
        now = time.time()
        self._value(names.AUDIT_INTACT).set(int(is_intact), now)
        self._value(names.AUDIT_VERIFIED).set(now, now)

    def count_task_success(self, task: Task) -> None:
        """Record that a task has succeeded now."""
        now = time.time()
        self._value(names.TASK_SUCCESS, task).set(now, now)

    @contextmanager
    def regular_task(self, task: Task, *, interval_seconds: float) -> Iterator[Callable[[], None]]:
        """During the block, expect a task to succeed every `interval_seconds`.

        Yields a function to call after each success. If the process is killed inside the block, the task
        becomes late, and an alert fires.
        """
        interval = self._value(names.TASK_INTERVAL, task)
        interval.set(interval_seconds, time.time())
        try:
            yield lambda: self.count_task_success(task)
        finally:
            interval.set(0, time.time())


def open_metrics(role: Role, directory: Path | None) -> Metrics:
    """Return the metrics of this process. Other processes can read them from files in `directory`.

    A missing directory is created. If the directory cannot be used, one warning is logged, and the metrics
    stay in this process. If `directory` is None, the metrics stay in this process too.
    """
    metrics = Metrics(role)
    if directory is not None:
        metrics.share(directory)
    return metrics


@contextmanager
def run_job(operation: str, directory: Path | None) -> Iterator[None]:
    """Count the block as one operation of a short-lived process that opens no service."""
    metrics = open_metrics("job", directory)
    started = time.perf_counter()
    try:
        yield
    finally:
        metrics.observe_operation(operation, time.perf_counter() - started)
        metrics.close()
