"""The reads of the Operations page: the sampler's last sample, and longer time spans from Prometheus."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from core import EnhancedDatabaseService
from core.health import scrape_own
from core.http_client import FetchFailed
from core.metrics.scrape import Scrape
from dashboard import runtime
from dashboard.monitoring.prometheus import Prometheus
from dashboard.monitoring.queries import CHARTED, TABULATED, build_present_promql, build_promql
from dashboard.monitoring.sampler import SampledMetrics, StackSample

CHART_POINTS = 120
MINIMUM_STEP_SECONDS = 15
"""Smallest step of a chart: Prometheus scrapes every 15 seconds and has no points in between."""


def find_metrics(
    sample: StackSample, prometheus: Prometheus | None, span_seconds: int
) -> tuple[SampledMetrics | None, tuple[str, ...]]:
    """Return the metrics of a time span, and a warning for each source that did not give any.

    They come from Prometheus if configured, otherwise from the last successful scrape, which can be old.
    """
    warnings: list[str] = []
    if prometheus is not None:
        try:
            return _load_span(prometheus, span_seconds), ()
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
    """Return the newest scrape (of all processes, else of this process) and the reasons by service."""
    own = scrape_own(service.metrics, sample.health)
    if metrics is None or (metrics.source == "exporter" and sample.error):
        return own, own.reasons
    return metrics.scrape, metrics.scrape.reasons or own.reasons


def _load_span(prometheus: Prometheus, span_seconds: int) -> SampledMetrics:
    """Return the metrics of a time span, read at most once in five seconds for all visitors."""

    def load() -> SampledMetrics:
        return read_prometheus(prometheus, span_seconds)

    return runtime.get_cache().get_or_load(("prometheus", span_seconds), load)


def read_prometheus(prometheus: Prometheus, span_seconds: int) -> SampledMetrics:
    """Return the metrics of the last `span_seconds` from Prometheus. Raises `FetchFailed`."""
    end = datetime.now(UTC)
    start = end - timedelta(seconds=span_seconds)
    step = max(MINIMUM_STEP_SECONDS, span_seconds // CHART_POINTS)
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
