"""The text of `/metrics`: what every process wrote, and what a check finds now.

Owns the isolation of collectors: each has its success and duration, and one that
fails never turns the answer into an error.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from core import EnhancedDatabaseService
from core.records import Health
from core.release import find_release
from exporter.collectors.lane import Lane, Outcome

logger = logging.getLogger(__name__)

# A scrape beside this one holds the folder for milliseconds; within the margin of the shortest timeout.
FOLDER_SECONDS = 0.1
STATUSES = ("healthy", "degraded", "unhealthy")


class Scrape(NamedTuple):
    """How one scrape asks; `seconds` is the time it has, `encode` makes a registry's text."""

    seconds: float = 9.5
    encode: Callable[[CollectorRegistry], bytes] = generate_latest


def build_exposition(
    service: EnhancedDatabaseService,
    metrics_dir: Path | None,
    *,
    lanes: Sequence[Lane[Any]] = (),
    scrape: Scrape = Scrape(),  # noqa: B008  # immutable
    succeeded_at: MutableMapping[str, float] | None = None,
) -> bytes:
    """Return the metrics of the fleet in Prometheus's text format; never raises for a collector.

    `lanes` run meanwhile and have `scrape.seconds` in all. `succeeded_at` keeps from scrape to
    scrape when each of the other collectors worked last, in seconds since the epoch.
    """
    deadline = time.monotonic() + scrape.seconds
    for lane in lanes:
        lane.start()
    registry = CollectorRegistry()
    # health first: with no time left it would call what answers down
    sources = {
        "health": lambda: _collect_health(service.health(_remaining(deadline))),
        "processes": lambda: service.metrics.collect(
            metrics_dir, limit_seconds=max(FOLDER_SECONDS, _remaining(deadline))
        ),
        "build": _collect_build,
    }
    registry.register(_Scrape(sources, lanes, deadline, {} if succeeded_at is None else succeeded_at))
    return scrape.encode(registry)


def _remaining(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


class _Scrape:
    """Runs the collectors of one scrape: its own one after the other, then it waits for the lanes."""

    def __init__(
        self,
        sources: Mapping[str, Callable[[], Iterable[Metric]]],
        lanes: Sequence[Lane[Any]],
        deadline: float,
        succeeded_at: MutableMapping[str, float],
    ) -> None:
        self._sources = sources
        self._lanes = lanes
        self._deadline = deadline
        self._succeeded_at = succeeded_at

    def collect(self) -> Iterator[Metric]:
        outcomes = [self._run(name, source) for name, source in self._sources.items()]
        outcomes += [outcome for lane in self._lanes for outcome in lane.wait(self._deadline)]
        for outcome in outcomes:
            yield from outcome.families
        yield from _describe(outcomes)

    def _run(self, name: str, source: Callable[[], Iterable[Metric]]) -> Outcome:
        started = time.perf_counter()
        families: list[Metric] = []
        is_success = False
        try:
            # as a whole: half a collector's metrics would look like a fact
            families = list(source())
        except Exception:
            # the edge of a collector: the others must still be seen
            logger.exception("collector %s failed", name)
        else:
            is_success = True
            self._succeeded_at[name] = time.time()
        return Outcome(
            name, families, is_success, time.perf_counter() - started, self._succeeded_at.get(name)
        )


def _describe(outcomes: Iterable[Outcome]) -> Iterator[Metric]:
    success = GaugeMetricFamily(
        "echo_scrape_collector_success", "1 when the collector worked", labels=["collector"]
    )
    duration = GaugeMetricFamily(
        "echo_scrape_collector_duration_seconds", "Time the collector took", labels=["collector"]
    )
    last = GaugeMetricFamily(
        "echo_scrape_collector_last_success_timestamp_seconds",
        "When the collector worked last, which is the age of what it shows",
        labels=["collector"],
    )
    for outcome in outcomes:
        success.add_metric([outcome.name], float(outcome.is_success))
        duration.add_metric([outcome.name], outcome.seconds)
        if outcome.succeeded_at is not None:
            last.add_metric([outcome.name], outcome.succeeded_at)
    yield from (success, duration, last)


def _collect_health(health: Health) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "echo_service_up", "1 while the service answers; absent when disabled", labels=["service"]
    )
    seconds = GaugeMetricFamily(
        "echo_service_check_duration_seconds", "Time the check took", labels=["service"]
    )
    up.add_metric(["database"], float(health.database != "unhealthy"))
    seconds.add_metric(["database"], health.database_seconds)
    if health.redis_enabled:
        up.add_metric(["redis"], float(health.redis != "unhealthy"))
        seconds.add_metric(["redis"], health.redis_seconds)
    yield up
    yield seconds
    status = GaugeMetricFamily(
        "echo_health_status", "1 for the present status, 0 for the others", labels=["status"]
    )
    for name in STATUSES:
        status.add_metric([name], float(name == health.status))
    yield status
    if health.migrations_applied is not None:
        yield GaugeMetricFamily(
            "echo_migrations_applied", "Migrations applied", value=health.migrations_applied
        )
    if health.migrations_pending is not None:
        yield GaugeMetricFamily(
            "echo_migrations_pending", "Migrations not applied", value=health.migrations_pending
        )


def _collect_build() -> Iterator[Metric]:
    info = GaugeMetricFamily("echo_build_info", "The running release", labels=["version", "revision"])
    info.add_metric(find_release(), 1)
    yield info
