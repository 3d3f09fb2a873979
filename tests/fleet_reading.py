"""Reads single samples of metrics, and increments a counter that every role has."""

from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Metric

from core.metrics import Metrics
from core.metrics.fleet import FleetReader
from core.metrics.scrape import list_samples
from core.metrics.writer import MetricWriter

TIMEOUTS = "echo_db_pool_timeouts_total"


def read(folder: Path, name: str, **labels: str) -> float | None:
    """Return a sample that a new exporter would read from the metrics folder; None without the sample."""
    return sample(FleetReader(MetricWriter(), folder), name, **labels)


def sample(reader: FleetReader, name: str, **labels: str) -> float | None:
    """Return a sample of all processes together; None without the sample."""
    return find_sample(reader.collect(), name, **labels)


def read_own(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return a sample of this process alone; pool and cache numbers are those of the last `publish`."""
    return find_sample(metrics.collect_own(), name, **labels)


def find_sample(families: Iterable[Metric], name: str, **labels: str) -> float | None:
    """Return the value of the sample with this name and exactly these labels; None without the sample."""
    return next(
        (item.value for item in list_samples(families) if item.name == name and item.labels == labels), None
    )


def count_timeouts(metrics: Metrics, count: int = 1) -> None:
    """Increment the counter of pool timeouts, which every role has, by `count`."""
    for _ in range(count):
        metrics.pool_timeouts.inc()
