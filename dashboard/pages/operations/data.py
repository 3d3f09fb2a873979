"""What the Operations page reads: the sampler's last sample, and longer spans from Prometheus."""

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
"""Prometheus scrapes every 15 seconds, so it has no points in between."""


def find_metrics(
    sample: StackSample, prometheus: Prometheus | None, span_seconds: int
) -> tuple[SampledMetrics | None, tuple[str, ...]]:
    """Return the metrics of a time span, and a warning for each source that did not give any.

    From Prometheus if there is one, otherwise the last ones that the exporter gave; they can be old then.
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
    """Return the newest scrape for the health cards, of all processes or else of this one, and reasons."""
    own = scrape_own(service.metrics, sample.health)
    if metrics is None or (metrics.source == "exporter" and sample.error):
        return own, own.reasons
    return metrics.scrape, metrics.scrape.reasons or own.reasons


def _load_span(prometheus: Prometheus, span_seconds: int) -> SampledMetrics:
    """Read a span, at most once in five seconds for all visitors."""

    def load() -> SampledMetrics:
        return read_prometheus(prometheus, span_seconds)

    return runtime.get_cache().get_or_load(("prometheus", span_seconds), load)


def read_prometheus(prometheus: Prometheus, span_seconds: int) -> SampledMetrics:
    """Return the metrics of the last seconds from Prometheus. Raises `FetchFailed`."""
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
