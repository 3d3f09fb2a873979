"""One scrape of an exporter, and queries on its samples.

Owns the reading of Prometheus's text format, sums over samples, and the reading of the exporter's health
document. The command line, the dashboard and the drills use it to observe the stack from outside. Defines no
metric.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import msgspec
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from core.http_client import Answer, FetchFailed, fetch
from core.metrics import names
from core.settings.stack_identity import HEADER, StackIdentity, parse_identity

SCRAPE_SECONDS = 3.0
TIMEOUT_HEADER = "x-prometheus-scrape-timeout-seconds"

NO_REASONS: Mapping[str, str] = MappingProxyType({})


class Scrape:
    """The samples of one stack at one moment. `reasons` maps a service that is not healthy to the reason."""

    def __init__(
        self,
        samples: Iterable[Sample],
        *,
        taken_at: datetime,
        stack: StackIdentity | None = None,
        reasons: Mapping[str, str] = NO_REASONS,
    ) -> None:
        self.taken_at = taken_at
        self.stack = stack
        self.reasons = reasons
        self._samples: dict[str, list[Sample]] = {}
        for sample in samples:
            self._samples.setdefault(sample.name, []).append(sample)

    def __contains__(self, name: str) -> bool:
        return name in self._samples

    def select(self, name: str, **labels: str) -> list[Sample]:
        """Return the samples with this name and these labels. They may have other labels too."""
        found = self._samples.get(name, [])
        return [item for item in found if all(item.labels.get(key) == text for key, text in labels.items())]

    def find(self, name: str, **labels: str) -> float | None:
        """Return the sum of the samples that `select` finds, or None if it finds none."""
        found = self.select(name, **labels)
        return sum(sample.value for sample in found) if found else None

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples that `select` finds, or 0 if it finds none."""
        return self.find(name, **labels) or 0.0

    def sum_by(self, name: str, *by: str, **labels: str) -> dict[tuple[str, ...], float]:
        """Return the sum of the samples of `select` for each combination of values of the labels `by`."""
        sums: dict[tuple[str, ...], float] = {}
        for sample in self.select(name, **labels):
            key = tuple(sample.labels.get(label, "") for label in by)
            sums[key] = sums.get(key, 0.0) + sample.value
        return sums

    def find_status(self) -> str | None:
        """Return the health status (healthy, degraded or unhealthy), or None if the scrape has none."""
        found = (item.labels["status"] for item in self.select(names.HEALTH_STATUS.name) if item.value)
        return next(found, None)


class _Service(msgspec.Struct):
    reason: str | None = None


class _Document(msgspec.Struct):
    """The health document, with only the field that is read."""

    services: dict[str, _Service]


def list_samples(families: Iterable[Metric]) -> list[Sample]:
    """Return the samples of all families."""
    return [sample for family in families for sample in family.samples]


def parse_scrape(text: str, *, taken_at: datetime, stack: StackIdentity | None = None) -> Scrape:
    """Parse Prometheus's text format. Raises `ValueError` for any other text."""
    return Scrape(list_samples(text_string_to_metric_families(text)), taken_at=taken_at, stack=stack)


def read_scrape(
    exporter_url: str, *, timeout_seconds: float = SCRAPE_SECONDS, authority: Path | None = None
) -> Scrape:
    """Scrape an exporter. Raises `FetchFailed` if it does not answer, or if the answer has no metrics.

    The request tells the exporter the timeout. If a server hangs, the exporter then answers in time, without
    the metrics of this server.
    """
    headers = {TIMEOUT_HEADER: f"{timeout_seconds:g}"}
    url = f"{exporter_url}/metrics"
    answer = fetch(url, timeout_seconds=timeout_seconds, headers=headers, authority=authority)
    taken_at = datetime.now(UTC)
    try:
        stack = parse_identity(answer.headers.get(HEADER.lower(), ""))
        scrape = parse_scrape(_read_text(answer), taken_at=taken_at, stack=stack)
    except (ValueError, IndexError, KeyError) as error:
        raise FetchFailed("the answer is not in Prometheus's text format") from error
    scrape.reasons = _find_reasons(scrape, exporter_url, timeout_seconds=timeout_seconds, authority=authority)
    return scrape


def _find_reasons(
    scrape: Scrape, exporter_url: str, *, timeout_seconds: float, authority: Path | None
) -> Mapping[str, str]:
    """Return why services are not healthy, as the exporter's health document says.

    Returns an empty mapping if all are healthy or the document cannot be read.
    """
    if scrape.find_status() in {None, "healthy"}:
        return NO_REASONS
    try:
        url = f"{exporter_url}/api/health/database"
        answer = fetch(url, timeout_seconds=timeout_seconds, authority=authority)
        document = msgspec.json.decode(answer.body, type=_Document)
    except (FetchFailed, msgspec.DecodeError):
        return NO_REASONS
    return {name: service.reason for name, service in document.services.items() if service.reason}


def _read_text(answer: Answer) -> str:
    if answer.status != 200:
        raise FetchFailed(f"the answer was HTTP {answer.status}")
    return answer.body.decode()


def estimate_quantile(quantile: float, buckets: Mapping[float, float]) -> float | None:
    """Return a quantile of a histogram, or None if the histogram has no observations.

    `buckets` maps each upper bound, +Inf included, to the number of observations up to this bound. Within a
    bucket the function interpolates linearly. For a quantile in the last bucket it returns the highest finite
    bound. PromQL's histogram_quantile does the same.
    """
    bounds = sorted(buckets)
    if len(bounds) < 2 or buckets[bounds[-1]] <= 0:
        return None
    rank = quantile * buckets[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds[:-1]:
        if buckets[bound] >= rank:
            inside = buckets[bound] - below
            return lower + (bound - lower) * (rank - below) / inside if inside else bound
        lower, below = bound, buckets[bound]
    return lower
