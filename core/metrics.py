"""Every metric that a process of the stack writes, in one place.

Owns when counters that are kept elsewhere are published. Names and labels are in
`core.metric_names`, where the values go in `core.metric_values`, and how those of all
processes are put together in `core.metric_fleet`. Never reads a server.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.samples import Sample

from core.forks import call_in_forked_child
from core.metric_fleet import LOCK_SECONDS, FleetReader
from core.metric_names import (
    WRITERS,
    AuditedAction,
    CloseReason,
    Definitions,
    Limiter,
    Role,
    Task,
    Tier,
)
from core.metric_values import MetricWriter

__all__ = ["Metrics", "Role"]

# A scrape comes every 15 s; what a process counted in its last second is seen at its end.
PUBLISH_SECONDS = 1.0


class Metrics(Definitions):
    """The metrics of one process; thread safe."""

    def __init__(self, role: Role, registry: CollectorRegistry | None = None) -> None:
        super().__init__(role, MetricWriter())
        self.registry = registry or CollectorRegistry()
        self._own = FleetReader(self.writer, None)
        self.registry.register(_InMemory(self._own))
        self._fleet = FleetReader(self.writer, None)
        # beside the one above, which may wait for another exporter
        self._live = FleetReader(self.writer, None)
        self._sources: list[Callable[[], None]] = []
        self._publishing = threading.Lock()
        self._publisher: threading.Thread | None = None
        self._closing = threading.Event()
        self.metrics_writers.set(1)
        call_in_forked_child(self._reset_after_fork)

    # -- run --------------------------------------------------------------------------

    def share(self, directory: Path) -> None:
        """Let others read the values from files in `directory`, which is created when missing.

        A folder that cannot be used costs one warning; the values then stay in this process.
        """
        self.writer.join(directory)
        if self.writer.is_shared:
            self._start_publishing()

    def collect(self, directory: Path | None, *, limit_seconds: float = LOCK_SECONDS) -> list[Metric]:
        """Return the metrics of this process and of every other one that shares `directory`.

        This process's are of this moment, those of others up to a second old. Raises
        `TimeoutError` when another exporter holds the folder for `limit_seconds`, two at most.
        """
        self.publish()
        if self._fleet.directory != directory:
            self._fleet = FleetReader(self.writer, directory)
        return self._fleet.collect(limit_seconds)

    def list_gauges(self, directory: Path | None) -> list[list[Sample]]:
        """Return the gauges of each other live process that shares `directory`, up to a second old."""
        if self._live.directory != directory:
            self._live = FleetReader(self.writer, directory)
        return self._live.list_gauges()

    def list_roles(self, directory: Path | None) -> set[Role]:
        """Return the roles of the live processes that share `directory`, this one's included."""
        samples = (sample for gauges in self.list_gauges(directory) for sample in gauges)
        return {self.role} | {item.labels["role"] for item in samples if item.name == WRITERS}

    def add_source(self, publish: Callable[[], None]) -> None:
        """Let `publish` bring its counters up to date whenever the metrics are published."""
        self._sources.append(publish)

    def _start_publishing(self) -> None:
        """Publish every second from now on: others read the values from files, and ask nobody."""
        self._publisher = threading.Thread(target=self._publish_regularly, name="metrics", daemon=True)
        self._publisher.start()

    def _reset_after_fork(self) -> None:
        """Go on in a forked child: threads do not survive a fork, and one may have held a lock."""
        self._publishing = threading.Lock()
        for reader in (self._own, self._fleet, self._live):
            reader.reset_after_fork()
        self.metrics_writers.set(1)
        if self._publisher is not None and not self._closing.is_set():
            self._closing = threading.Event()
            self._start_publishing()

    def _publish_regularly(self) -> None:
        while not self._closing.wait(PUBLISH_SECONDS):
            self.publish()

    def close(self) -> None:
        """Publish for the last time; what was counted stays with the others, gauges do not."""
        self._closing.set()
        if self._publisher is not None:
            self._publisher.join()
        self.publish()
        self.writer.close()

    def publish(self) -> None:
        """Bring every counter up to date; some are summed up elsewhere, where counting is cheap."""
        with self._publishing:
            for source in self._sources:
                source()

    # -- what is counted --------------------------------------------------------------

    def count_pool_closed(self, reason: CloseReason) -> None:
        """Count a connection that the pool closed."""
        self._pool_closed[reason].inc()

    def observe_operation(self, operation: str, seconds: float) -> None:
        """Record the database part of one service call."""
        self._operation_seconds.labels(operation, self.role).observe(seconds)

    def count_operation_error(self, operation: str, sqlstate_class: str) -> None:
        """Count a failed database part; the class is the first two characters of the SQLSTATE."""
        self._operation_errors.labels(operation, self.role, sqlstate_class).inc()

    def count_cache_reads(self, cache: str, tier: Tier, *, hits: int, misses: int) -> None:
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

    def count_stale_read_sample(self, cache: str, tier: Tier, *, is_stale: bool) -> None:
        """Count a hit that was compared with the database, and whether it disagreed."""
        labels = (cache, tier, self.role)
        self._cache_samples.labels(*labels).inc()
        self._cache_stale_reads.labels(*labels).inc(int(is_stale))

    def observe_cache_load(self, cache: str, seconds: float) -> None:
        """Record what loading a missing value cost."""
        self._cache_load_seconds.labels(cache).observe(seconds)

    def observe_render(self, page: str, seconds: float) -> None:
        """Record how long the script of a page took; `page` is its title in small letters."""
        self._render_seconds.labels(page).observe(seconds)

    def count_limited(self, limiter: Limiter, *, is_rejected: bool) -> None:
        """Count a request that a limiter let through or refused."""
        requests, rejections = self._limited[limiter]
        requests.inc()
        rejections.inc(int(is_rejected))

    def count_audit_event(self, action: AuditedAction) -> None:
        """Count an operator action that was written down."""
        self._audited[action][0].inc()

    def count_audit_write_failure(self, action: AuditedAction) -> None:
        """Count an operator action that could not be written down."""
        self._audited[action][1].inc()

    def count_task_success(self, task: Task) -> None:
        """Note that a task has succeeded now."""
        now = time.time()
        self._task_success.labels(task).set(now, now)

    @contextmanager
    def regular_task(self, task: Task, *, interval_seconds: float) -> Iterator[Callable[[], None]]:
        """Expect a task to succeed every so often inside the block; yields what to call each time.

        A process that is killed inside leaves a task that is late, which an alert says.
        """
        interval = self._task_interval.labels(task)
        interval.set(interval_seconds, time.time())
        try:
            yield lambda: self.count_task_success(task)
        finally:
            interval.set(0, time.time())


class _InMemory:
    """Shows this process's own values to a registry."""

    def __init__(self, reader: FleetReader) -> None:
        self._reader = reader

    def collect(self) -> list[Metric]:
        return self._reader.collect()
