"""Builds the text of `/metrics`: the metrics of all processes and servers, in the requested format.

Owns the negotiation of format and timeout, and the metrics about the collectors themselves. A collector that
fails is reported, and never turns the answer into an error. The encoders are those of prometheus_client. The
negotiation of prometheus_client is not used, because it ignores quality values and would send a format that
the client refuses.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client import Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from core import EnhancedDatabaseService
from core.health import build_health_metrics
from core.installation import find_release
from core.metrics.names import gauge
from core.metrics.scrape import TIMEOUT_HEADER
from core.web.encodings import parse_items, parse_quality
from exporter.collectors.runner import CollectorRunner, Outcome

logger = logging.getLogger(__name__)

# Minimum timeout for the lock of the folder with the metrics of all processes. Another reader holds the lock
# for milliseconds. The timeout is shorter than MARGIN_SECONDS, so the answer is in time even if the wait
# begins at the deadline.
FOLDER_SECONDS = 0.1

OPEN_METRICS = "application/openmetrics-text"
PLAIN_TEXT = "text/plain"
# Timeout of a scrape for clients that send no timeout: the default of Prometheus.
DEFAULT_TIMEOUT_SECONDS = 10.0
# Part of a scrape's timeout in which the answer is encoded and sent to Prometheus.
MARGIN_SECONDS = 0.5
MIN_SECONDS = 0.1
MAX_SECONDS = 60.0

SUCCESS = gauge("echo_scrape_collector_success", "1 when the collector worked", "collector")
DURATION = gauge("echo_scrape_collector_duration_seconds", "Time the collector took", "collector")
LAST_SUCCESS = gauge(
    "echo_scrape_collector_last_success_timestamp_seconds",
    "When the collector worked last, which is the age of what it shows",
    "collector",
)
BUILD = gauge("echo_build_info", "The running release", "version", "revision")


class ScrapeRequest(NamedTuple):
    """The format that a client requests, and how many seconds the metrics may take to collect."""

    seconds: float = DEFAULT_TIMEOUT_SECONDS - MARGIN_SECONDS
    encode: Callable[[Collector], bytes] = generate_latest
    content_type: str = CONTENT_TYPE_PLAIN_0_0_4


class Exposition:
    """Builds the answer to each scrape. Stores the time of each collector's latest success."""

    def __init__(
        self, service: EnhancedDatabaseService, runners: Sequence[CollectorRunner[Any]] = ()
    ) -> None:
        self._service = service
        self._runners = runners
        self._succeeded_at: dict[str, float] = {}

    def build(self, request: ScrapeRequest = ScrapeRequest()) -> bytes:  # noqa: B008  # immutable
        """Return all metrics as text. Errors of collectors are reported in the metrics, and not raised."""
        deadline = time.monotonic() + request.seconds
        for runner in self._runners:
            runner.start()
        # check the health first: if no time were left for it, servers that answer would be reported as down
        outcomes = [
            self._run("health", lambda: build_health_metrics(self._service.health(_remaining(deadline)))),
            self._run(
                "processes",
                lambda: self._service.metrics.collect(
                    limit_seconds=max(FOLDER_SECONDS, _remaining(deadline))
                ),
            ),
            self._run("build", _collect_build),
            *(outcome for runner in self._runners for outcome in runner.wait(deadline)),
        ]
        return request.encode(_Collected(outcomes))

    def _run(self, name: str, collect: Callable[[], Iterable[Metric]]) -> Outcome:
        started = time.perf_counter()
        families: list[Metric] = []
        is_success = False
        try:
            # collect all metrics before any is returned: a part of them would look like a complete result
            families = list(collect())
        except Exception:
            # catch every error, so that the other collectors still run
            logger.exception("collector %s failed", name)
        else:
            is_success = True
            self._succeeded_at[name] = time.time()
        seconds = time.perf_counter() - started
        return Outcome(name, families, is_success, seconds, self._succeeded_at.get(name))


class _Collected(Collector):
    """The outcomes of one scrape, as the collector that the encoders of prometheus_client need."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes = outcomes

    def collect(self) -> Iterator[Metric]:
        for outcome in self._outcomes:
            yield from outcome.families
        yield SUCCESS.build({(each.name,): float(each.is_success) for each in self._outcomes})
        yield DURATION.build({(each.name,): each.seconds for each in self._outcomes})
        yield LAST_SUCCESS.build(
            {(each.name,): each.succeeded_at for each in self._outcomes if each.succeeded_at is not None}
        )


def _remaining(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _collect_build() -> Iterator[Metric]:
    yield BUILD.build({find_release(): 1})


def negotiate(headers: Mapping[str, str]) -> ScrapeRequest:
    """Return the timeout and the format that the headers of a request ask for.

    The format is OpenMetrics 1.0 if its quality is at least that of plain text, else text format 0.0.4.
    """
    timeout = _parse_timeout(headers.get(TIMEOUT_HEADER, ""))
    seconds = min(MAX_SECONDS, max(MIN_SECONDS, timeout - MARGIN_SECONDS))
    qualities = _parse_qualities(headers.get("accept", ""))
    if qualities.get(OPEN_METRICS, 0.0) > 0 and qualities[OPEN_METRICS] >= qualities.get(PLAIN_TEXT, 0.0):
        return ScrapeRequest(seconds, openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST)
    return ScrapeRequest(seconds)


def _parse_qualities(header: str) -> dict[str, float]:
    """Return the quality of each media type in an Accept header. Unsupported versions are left out."""
    qualities: dict[str, float] = {}
    for name, parameters in parse_items(header):
        version = parameters.get("version", "1.").strip('"')
        if name == OPEN_METRICS and not version.startswith("1."):
            continue
        qualities[name] = max(parse_quality(parameters), qualities.get(name, 0.0))
    return qualities


def _parse_timeout(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        return DEFAULT_TIMEOUT_SECONDS
    return seconds if math.isfinite(seconds) else DEFAULT_TIMEOUT_SECONDS
