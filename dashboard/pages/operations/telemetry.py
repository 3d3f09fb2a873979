"""Snapshots of the metrics of all processes, shared by all sessions and read on demand.

The source is Prometheus if it is configured and answers, otherwise the exporter with a short history of
its scrapes. One session reads while the others take its snapshot; without visitors nothing is read.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from core import Settings
from core.http_client import FetchFailed
from core.metrics.scrape import Scrape, find_reasons, read_scrape
from core.settings.stack_identity import StackIdentity
from dashboard.pages.operations.alerts import Alert, find_alerts
from dashboard.pages.operations.prometheus import Prometheus
from dashboard.pages.operations.queries import (
    CHARTED,
    POOL_TIMEOUTS,
    TABULATED,
    WINDOW_SECONDS,
    History,
    Query,
    Series,
    Values,
    build_present_promql,
    build_promql,
)

REFRESH_SECONDS = 5
"""Slower than a step of the simulated market (2 s), faster than anybody acts."""

EXPORTER_SECONDS = 3.0
CHART_POINTS = 120
MINIMUM_STEP_SECONDS = 15
"""Prometheus scrapes every 15 seconds, so it has no points in between."""


class Snapshot(msgspec.Struct, frozen=True):
    """The metrics of all processes at one moment; `scrape` is None when no source answered.

    `alerts` come from the source; `warnings` name each source that did not answer.
    """

    taken_at: datetime
    source: Literal["prometheus", "exporter", "none"]
    scrape: Scrape | None
    series: dict[Query, tuple[Series, ...]]
    values: dict[Query, Values]
    alerts: tuple[Alert, ...]
    warnings: tuple[str, ...]


class Telemetry:
    """Reads snapshots, at most one per interval; thread safe.

    The exporter must belong to `stack`; None accepts any.
    """

    def __init__(
        self,
        *,
        exporter_url: str,
        prometheus: Prometheus | None,
        stack: StackIdentity | None = None,
        refresh_seconds: float = REFRESH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exporter_url = exporter_url
        self._prometheus = prometheus
        self._stack = stack
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._history = History((*CHARTED, *TABULATED))
        self._snapshots: dict[int, tuple[float, Snapshot]] = {}
        self._lock = threading.Lock()

    @property
    def has_prometheus(self) -> bool:
        """Whether a Prometheus is configured, so that a time span can be selected."""
        return self._prometheus is not None

    def read(self, span_seconds: int) -> Snapshot:
        """Return the snapshot for a time span, at most one interval old."""
        # without Prometheus there is only the history
        span_seconds = span_seconds if self._prometheus else 0
        with self._lock:
            known = self._snapshots.get(span_seconds)
            # with tolerance, because a timer can fire a little early
            if known is not None and self._clock() - known[0] < self._refresh_seconds * 0.8:
                return known[1]
            snapshot = self._read_snapshot(span_seconds)
            self._snapshots[span_seconds] = (self._clock(), snapshot)
            return snapshot

    def _read_snapshot(self, span_seconds: int) -> Snapshot:
        if self._prometheus is None:
            return self._read_exporter(())
        try:
            snapshot = _read_prometheus(self._prometheus, span_seconds)
        except FetchFailed as error:
            return self._read_exporter((f"Prometheus cannot be read: {error}.",))
        except (KeyError, IndexError, TypeError, ValueError):
            return self._read_exporter(("Prometheus cannot be read: its answer has an unknown form.",))
        if snapshot.scrape is not None:
            snapshot.scrape.reasons = find_reasons(
                snapshot.scrape, self._exporter_url, timeout_seconds=EXPORTER_SECONDS
            )
        return snapshot

    def _read_exporter(self, warnings: tuple[str, ...]) -> Snapshot:
        try:
            scrape = read_scrape(self._exporter_url, timeout_seconds=EXPORTER_SECONDS)
        except FetchFailed as error:
            return _build_empty((*warnings, f"The exporter cannot be read: {error}."))
        if self._stack and scrape.stack and not scrape.stack.is_same(self._stack):
            other = f"The exporter belongs to another stack: {scrape.stack}, and not {self._stack}."
            return _build_empty((*warnings, other))
        history = self._history
        history.add(scrape)
        values = {query: history.read_values(query, window_seconds=WINDOW_SECONDS) for query in TABULATED}
        return Snapshot(
            taken_at=scrape.taken_at,
            source="exporter",
            scrape=scrape,
            series={query: history.read_series(query, window_seconds=WINDOW_SECONDS) for query in CHARTED},
            values=values,
            alerts=find_alerts(scrape, values[POOL_TIMEOUTS]),
            warnings=warnings,
        )


def _read_prometheus(prometheus: Prometheus, span_seconds: int) -> Snapshot:
    end = datetime.now(UTC)
    start = end - timedelta(seconds=span_seconds)
    step = max(MINIMUM_STEP_SECONDS, span_seconds // CHART_POINTS)
    return Snapshot(
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
        alerts=prometheus.list_alerts(),
        warnings=(),
    )


def _build_empty(warnings: tuple[str, ...]) -> Snapshot:
    return Snapshot(
        taken_at=datetime.now(UTC),
        source="none",
        scrape=None,
        series={},
        values={},
        alerts=(),
        warnings=warnings,
    )


def open_telemetry(settings: Settings) -> Telemetry:
    """Return the telemetry for these settings; reads nothing yet."""
    url = settings.prometheus_url
    return Telemetry(
        exporter_url=settings.find_exporter_url(),
        prometheus=Prometheus(url.get_secret_value()) if url else None,
        # an exporter that was configured by hand may belong to any stack
        stack=settings.identify_stack() if settings.exporter_url is None else None,
    )


class _Holder:
    telemetry: Telemetry | None = None


def set_telemetry(telemetry: Telemetry | None) -> None:
    """Set what the page reads, or None to remove it; a holder for the reason given in `dashboard.runtime`."""
    _Holder.telemetry = telemetry


def get_telemetry() -> Telemetry:
    """Return the telemetry of this process; raises `RuntimeError` before it was set."""
    if _Holder.telemetry is None:
        raise RuntimeError("no telemetry is set; start the pages with `python -m dashboard`")
    return _Holder.telemetry
