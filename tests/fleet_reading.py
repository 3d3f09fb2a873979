"""Metrics in tests: increments a counter that every role has, and reads single samples."""

from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Metric

from core.metrics import Metrics
from core.metrics.fleet import FleetReader
from core.metrics.scrape import list_samples
from core.metrics.writer import MetricWriter

TIMEOUTS = "echo_db_pool_timeouts_total"


def read(folder: Path, name: str, **labels: str) -> float | None:
    """Return a sample of the fleet as a newly started exporter sees it; None when it is not there."""
    return sample(FleetReader(MetricWriter(), folder), name, **labels)


def sample(reader: FleetReader, name: str, **labels: str) -> float | None:
    """Return a sample of the fleet; None when it is not there."""
    return find_sample(reader.collect(), name, **labels)


def read_own(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return a sample of this process alone, as last published; None when it is not there."""
    return find_sample(metrics.collect_own(), name, **labels)


def find_sample(families: Iterable[Metric], name: str, **labels: str) -> float | None:
    """Return a sample of a collection; None when it is not there."""
    return next(
        (item.value for item in list_samples(families) if item.name == name and item.labels == labels), None
    )


def count_timeouts(metrics: Metrics, count: int = 1) -> None:
    """Increment a counter that every role has by `count`."""
    for _ in range(count):
        metrics.pool_timeouts.inc()
