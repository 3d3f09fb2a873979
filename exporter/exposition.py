"""The text of `/metrics`: what every process wrote, and what a check finds now.

Owns the isolation of collectors: each has its success and duration, and one that
fails never turns the answer into an error.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from core import EnhancedDatabaseService
from core.metric_files import remove_dead_gauges
from core.records import Health

logger = logging.getLogger(__name__)

STATUSES = ("healthy", "degraded", "unhealthy")


def build_exposition(service: EnhancedDatabaseService, metrics_dir: Path | None) -> bytes:
    """Return the metrics of the fleet in Prometheus's text format; never raises for a collector."""
    registry = CollectorRegistry()
    registry.register(
        _Scrape(
            {
                "processes": lambda: _collect_processes(service, metrics_dir),
                "health": lambda: _collect_health(service.health()),
                "build": _collect_build,
            }
        )
    )
    return generate_latest(registry)


class _Scrape:
    """Runs the collectors of one scrape one after the other."""

    def __init__(self, sources: dict[str, Callable[[], Iterable[Metric]]]) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        success = GaugeMetricFamily(
            "echo_scrape_collector_success", "1 when the collector worked", labels=["collector"]
        )
        duration = GaugeMetricFamily(
            "echo_scrape_collector_duration_seconds", "Time the collector took", labels=["collector"]
        )
        for name, source in self._sources.items():
            started = time.perf_counter()
            try:
                # as a whole: half a collector's metrics would look like a fact
                yield from list(source())
            except Exception:
                # the edge of a collector: the others must still be seen
                logger.exception("collector %s failed", name)
                success.add_metric([name], 0)
            else:
                success.add_metric([name], 1)
            duration.add_metric([name], time.perf_counter() - started)
        yield success
        yield duration


def _collect_processes(service: EnhancedDatabaseService, metrics_dir: Path | None) -> Iterable[Metric]:
    service.metrics.publish()
    if metrics_dir is None or not metrics_dir.is_dir():
        return service.metrics.registry.collect()
    remove_dead_gauges(metrics_dir)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(metrics_dir))  # type: ignore[no-untyped-call]  # prometheus_client has no annotations there
    return registry.collect()


def _collect_health(health: Health) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "echo_service_up", "1 while the service answers; absent when disabled", labels=["service"]
    )
    seconds = GaugeMetricFamily(
        "echo_service_check_duration_seconds", "Time the check took", labels=["service"]
    )
    up.add_metric(["database"], float(health.database == "healthy"))
    seconds.add_metric(["database"], health.database_seconds)
    if health.redis_enabled:
        up.add_metric(["redis"], float(health.redis == "healthy"))
        seconds.add_metric(["redis"], health.redis_seconds)
    yield up
    yield seconds
    status = GaugeMetricFamily(
        "echo_health_status", "1 for the present status, 0 for the others", labels=["status"]
    )
    for name in STATUSES:
        status.add_metric([name], float(name == health.status))
    yield status
    if health.migrations_pending is not None:
        yield GaugeMetricFamily(
            "echo_migrations_pending", "Migrations not applied", value=health.migrations_pending
        )


def _collect_build() -> Iterator[Metric]:
    info = GaugeMetricFamily("echo_build_info", "The running release", labels=["version"])
    info.add_metric([_version()], 1)
    yield info


@cache
def _version() -> str:
    try:
        return version("echo-markets")
    except PackageNotFoundError:
        return "unknown"
