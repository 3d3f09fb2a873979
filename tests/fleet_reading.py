"""How tests look at the metrics of several writers.

Owns a counter that every role has, and reading a sample as an exporter does.
"""

from pathlib import Path

from core.metric_fleet import FleetReader
from core.metric_values import MetricWriter
from core.metrics import Metrics

TIMEOUTS = "echo_db_pool_timeouts_total"


def read(folder: Path, name: str, **labels: str) -> float | None:
    """Return a sample of the fleet as an exporter that has just started sees it."""
    return sample(FleetReader(MetricWriter(), folder), name, **labels)


def sample(reader: FleetReader, name: str, **labels: str) -> float | None:
    """Return a sample of the fleet; None when it is not there."""
    for metric in reader.collect():
        for found in metric.samples:
            if found.name == name and found.labels == labels:
                return found.value
    return None


def count_timeouts(metrics: Metrics, count: int = 1) -> None:
    """Count on a counter that every role has."""
    for _ in range(count):
        metrics.pool_timeouts.inc()
