"""Reads the metrics and the health of the Operations page: from the sampler's last sample or Prometheus."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial

from core import EnhancedDatabaseService
from core.health import scrape_own
from core.http_client import FetchFailed
from core.metrics.scrape import Scrape
from dashboard import runtime
from dashboard.monitoring.prometheus import Prometheus
from dashboard.monitoring.queries import CHARTED, TABULATED, build_present_promql, build_promql
from dashboard.monitoring.sampler import SampledMetrics, StackSample

CHART_POINTS = 120
MIN_STEP_SECONDS = 15
"""Minimum time between two points of a chart: Prometheus scrapes every 15 seconds."""


def find_metrics(
    sample: StackSample, prometheus: Prometheus | None, span_seconds: int
) -> tuple[SampledMetrics | None, tuple[str, ...]]:
    """Return the metrics of a time span, and a warning for each source that failed.

    The source is Prometheus if it is configured. If it is not, or if it fails, the source is the sampler's
    last successful scrape of the exporter, which can be old. The metrics are None if no scrape has succeeded.
    """
    warnings: list[str] = []
    if prometheus is not None:
        try:
            load = partial(read_prometheus, prometheus, span_seconds)
            return runtime.get_cache().get_or_load(("prometheus", span_seconds), load), ()
        except FetchFailed as error:
            warnings.append(f"Prometheus cannot be read: {error}.")
        except (KeyError, IndexError, TypeError, ValueError):
            warnings.append("Prometheus cannot be read: its answer has an unknown form.")
    if sample.error:
        warnings.append(sample.error)
    return sample.metrics, tuple(warnings)


def find_health(
    sample: StackSample, metrics: SampledMetrics | None, service: EnhancedDatabaseService
) -> tuple[Scrape, Mapping[str, str]]:
    """Return the newest scrape, and the reason for each server (PostgreSQL, Redis) that has a problem.

    The scrape has the metrics of all processes. If the exporter fails, it has the metrics of this process
    only.
    """
    own = scrape_own(service.metrics, sample.health)
    if metrics is None or (metrics.source == "exporter" and sample.error):
        return own, own.reasons
    return metrics.scrape, metrics.scrape.reasons or own.reasons


def read_prometheus(prometheus: Prometheus, span_seconds: int) -> SampledMetrics:
    """Return the metrics of the last `span_seconds`. Raises `FetchFailed` if Prometheus does not answer."""
    end = datetime.now(UTC)
    start = end - timedelta(seconds=span_seconds)
    step = max(MIN_STEP_SECONDS, span_seconds // CHART_POINTS)
    return SampledMetrics(
        taken_at=end,
        source="prometheus",
        scrape=prometheus.read_scrape(build_present_promql()),
        series={
            query: prometheus.read_series(
                build_promql(query), query.by, start=start, end=end, step_seconds=step
            )
            for query in CHARTED
        },
        values={query: prometheus.read_values(build_promql(query), query.by) for query in TABULATED},
    )
