"""The thread that samples the stack's health and metrics from the start of the dashboard to its end.

Owns the samples: an hour of charted metrics, the alerts, the incidents, and the last health check. Pages
only read the last `StackSample` from memory, so no page waits for a server that does not answer.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from core import EnhancedDatabaseService, Settings
from core.forks import call_in_forked_child
from core.http_client import FetchFailed
from core.metrics.scrape import Scrape, read_scrape
from core.records import Health
from core.settings.stack_identity import StackIdentity
from dashboard.monitoring.alerts import Alert, AlertBook, Condition, find_conditions
from dashboard.monitoring.incidents import Incident, IncidentLog, Problem, find_problems
from dashboard.monitoring.prometheus import Prometheus
from dashboard.monitoring.queries import (
    CHARTED,
    POOL_TIMEOUTS,
    TABULATED,
    MetricHistory,
    Query,
    Series,
    Values,
)

logger = logging.getLogger(__name__)

CHECK_SECONDS = 0.5
"""Pause between two health checks. The service caches the result of a check for two seconds."""

SCRAPE_SECONDS = 5.0
"""Time between two scrapes.

It is longer than a step of the market simulation (2 s), and short enough that pages soon show new values.
"""

TROUBLE_SECONDS = 2.0
"""Time between two scrapes while something is broken.

It is short, so that pages soon show the end of a problem.
"""

EXPORTER_SECONDS = 2.0
"""Timeout of a scrape. It is short, because the next health check waits for the scrape."""

STALE_SECONDS = 15.0
"""Age at which the last health check counts as outdated."""

EXPORTER_GONE = Problem("EchoExporterAbsent", "The exporter does not answer", "Exporter down")


class SampledMetrics(msgspec.Struct, frozen=True):
    """The metrics of all processes.

    `scrape` and `values` are from the time `taken_at`. `series` covers the last hour.
    """

    taken_at: datetime
    source: Literal["prometheus", "exporter"]
    scrape: Scrape
    series: Mapping[Query, tuple[Series, ...]]
    values: Mapping[Query, Values]


class StackSample(msgspec.Struct, frozen=True):
    """One sample of the whole stack.

    `metrics` are those of the last successful scrape, None before the first one. `error` is the reason why
    the last scrape failed, None if it succeeded. `alerts_source` names the program that evaluated the
    alerts.
    """

    clock: float
    health: Health
    problems: tuple[Problem, ...]
    incidents: tuple[Incident, ...]
    metrics: SampledMetrics | None
    error: str | None
    alerts: tuple[Alert, ...]
    alerts_source: Literal["prometheus", "dashboard"]


class Sampler:
    """Samples the health and the metrics of one stack. Thread safe.

    If `stack` is given, an exporter of another stack is refused. With `prometheus`, the alerts come from
    Prometheus while it answers, else the dashboard evaluates them.
    """

    def __init__(
        self,
        service: EnhancedDatabaseService,
        *,
        exporter_url: str,
        exporter_ca: Path | None = None,
        prometheus: Prometheus | None = None,
        stack: StackIdentity | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.started_at = datetime.now(UTC)
        self.prometheus = prometheus
        self._service = service
        self._exporter_url, self._exporter_ca = exporter_url, exporter_ca
        self._stack = stack
        self._clock = clock
        self._history = MetricHistory(CHARTED, TABULATED)
        self._book, self._log = AlertBook(), IncidentLog()
        self._scraped_at = float("-inf")
        self._metrics: SampledMetrics | None = None
        self._error: str | None = None
        self._alerts: tuple[Alert, ...] = ()
        self._alerts_source: Literal["prometheus", "dashboard"] = "dashboard"
        self._latest: StackSample | None = None
        self._reset_after_fork()
        call_in_forked_child(self._reset_after_fork)

    def _reset_after_fork(self) -> None:
        """Forget the thread, because it does not run in a forked child. The last sample stays."""
        self._sampling = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def latest(self) -> StackSample | None:
        """The last sample, or None before the first one."""
        return self._latest

    @property
    def is_current(self) -> bool:
        """Whether the last sample is younger than `STALE_SECONDS`."""
        sample = self._latest
        return sample is not None and self._clock() - sample.clock < STALE_SECONDS

    def start(self) -> None:
        """Start the sampling thread."""
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def close(self, timeout_seconds: float) -> None:
        """Stop the thread, and wait at most `timeout_seconds` for its end: it may have to finish a read."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.sample()
            except Exception:
                # catch every error: the next sample may succeed
                logger.exception("the sampler failed; it tries again in %g s", CHECK_SECONDS)
            self._stopping.wait(CHECK_SECONDS)

    def sample(self) -> None:
        """Check the health, and scrape the exporter if the next scrape is due."""
        with self._sampling:
            health = self._service.health()
            self._publish(health)
            is_troubled = bool(self._latest and self._latest.problems)
            interval = TROUBLE_SECONDS if is_troubled else SCRAPE_SECONDS
            if self._clock() - self._scraped_at >= interval:
                self._scraped_at = self._clock()
                self._scrape()
                self._publish(health)

    def _publish(self, health: Health) -> None:
        clock, moment = self._clock(), datetime.now(UTC)
        found = self._log.add_alerts(find_problems(health), self._alerts, clock=clock)
        # report no problem if no exporter has ever answered: the stack may have none
        is_gone = self._error is not None and self._metrics is not None
        problems = (*found, *([EXPORTER_GONE] if is_gone else []))
        self._log.update(problems, clock=clock, moment=moment)
        self._latest = StackSample(
            clock=clock,
            health=health,
            problems=problems,
            incidents=self._log.list_incidents(),
            metrics=self._metrics,
            error=self._error,
            alerts=self._alerts,
            alerts_source=self._alerts_source,
        )

    def _scrape(self) -> None:
        scrape, self._error = self._read_exporter()
        conditions: list[Condition] = []
        if scrape is not None:
            self._history.add(scrape, at=self._clock())
            values = self._history.values
            self._metrics = SampledMetrics(
                taken_at=scrape.taken_at,
                source="exporter",
                scrape=scrape,
                series=self._history.list_series(),
                values=values,
            )
            conditions = list(find_conditions(scrape, values[POOL_TIMEOUTS]))
        alerts = self._book.update(conditions, clock=self._clock(), moment=datetime.now(UTC))
        self._alerts, self._alerts_source = alerts, "dashboard"
        if self.prometheus is not None:
            try:
                self._alerts, self._alerts_source = self.prometheus.list_alerts(), "prometheus"
            except FetchFailed as error:
                logger.debug("no alerts from Prometheus: %s", error)

    def _read_exporter(self) -> tuple[Scrape | None, str | None]:
        """Return (scrape, None), or (None, reason) if the scrape failed."""
        try:
            scrape = read_scrape(
                self._exporter_url, timeout_seconds=EXPORTER_SECONDS, authority=self._exporter_ca
            )
        except FetchFailed as error:
            return None, f"The exporter cannot be read: {error}."
        if self._stack and scrape.stack and not scrape.stack.is_same(self._stack):
            return None, f"The exporter belongs to another stack: {scrape.stack}, and not {self._stack}."
        return scrape, None


def open_sampler(service: EnhancedDatabaseService, settings: Settings) -> Sampler:
    """Return the sampler for these settings. It reads nothing before `start`."""
    url = settings.prometheus_url
    return Sampler(
        service,
        exporter_url=settings.find_exporter_url(),
        exporter_ca=settings.exporter_ca,
        prometheus=Prometheus(url.get_secret_value()) if url else None,
        # if EXPORTER_URL is set, its exporter may belong to another stack
        stack=settings.identify_stack() if settings.exporter_url is None else None,
    )


class _Holder:
    sampler: Sampler | None = None


def set_sampler(sampler: Sampler | None) -> None:
    """Set the sampler that pages read. None removes it. `dashboard.runtime` says why it is module state."""
    _Holder.sampler = sampler


def find_sampler() -> Sampler | None:
    """Return the sampler of this process, or None before `set_sampler`."""
    return _Holder.sampler
