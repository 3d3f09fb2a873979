"""One view of the fleet for all sessions, read when somebody looks.

Owns where figures come from (Prometheus when it is set and answers, otherwise the exporter
and a short history of it), how often they are read, and that one session reads while the
others take the answer. Nothing runs while nobody looks.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from core import Settings
from core.http_client import FetchFailed
from core.scrape import Scrape, find_reasons, read_scrape
from core.stack_identity import StackIdentity
from dashboard.operations.conditions import find_conditions
from dashboard.operations.history import History, Series, Values
from dashboard.operations.prometheus import Alert, Prometheus
from dashboard.operations.queries import (
    CHARTED,
    POOL_TIMEOUTS,
    TABULATED,
    WINDOW_SECONDS,
    Query,
    build_present_promql,
    build_promql,
)

REFRESH_SECONDS = 5
"""A step of the simulated market is two seconds; people read slower."""

EXPORTER_SECONDS = 3.0
CHART_POINTS = 120
MINIMUM_STEP_SECONDS = 15
"""Prometheus has no points in between: it scrapes every 15 seconds."""


class View(msgspec.Struct, frozen=True):
    """The fleet at one moment; `scrape` is None when nobody could be asked.

    `alerts` are Prometheus's own, or conditions of the present scrape when `source` is
    exporter. `trouble` says who did not answer.
    """

    taken_at: datetime
    source: Literal["prometheus", "exporter", "none"]
    scrape: Scrape | None
    series: dict[Query, tuple[Series, ...]]
    values: dict[Query, Values]
    alerts: tuple[Alert, ...]
    trouble: tuple[str, ...]
    points: int


class Telemetry:
    """Reads the fleet's metrics, at most once an interval; thread safe.

    The exporter has to be that of `stack`, whichever it is when None.
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
        self._views: dict[int, tuple[float, View]] = {}
        self._lock = threading.Lock()

    @property
    def has_prometheus(self) -> bool:
        """Whether a Prometheus is set, so that there is a longer past to choose."""
        return self._prometheus is not None

    def read(self, span_seconds: int) -> View:
        """Return the present view with charts over a span; at most an interval old, the same for all."""
        # without Prometheus there is one span: what was seen
        span_seconds = span_seconds if self._prometheus else 0
        with self._lock:
            known = self._views.get(span_seconds)
            # the tolerance: a timer that fires a little early still reads anew
            if known is not None and self._clock() - known[0] < self._refresh_seconds * 0.8:
                return known[1]
            view = self._read_new(span_seconds)
            self._views[span_seconds] = (self._clock(), view)
            return view

    def _read_new(self, span_seconds: int) -> View:
        if self._prometheus is None:
            return self._read_exporter(())
        try:
            view = _read_prometheus(self._prometheus, span_seconds)
        except FetchFailed as error:
            return self._read_exporter((f"Prometheus cannot be read: {error}.",))
        except (KeyError, IndexError, TypeError, ValueError):
            return self._read_exporter(("Prometheus cannot be read: its answer has another form.",))
        if view.scrape is not None:
            view.scrape.reasons = find_reasons(
                view.scrape, self._exporter_url, timeout_seconds=EXPORTER_SECONDS
            )
        return view

    def _read_exporter(self, trouble: tuple[str, ...]) -> View:
        try:
            scrape = read_scrape(self._exporter_url, timeout_seconds=EXPORTER_SECONDS)
        except FetchFailed as error:
            return _build_empty((*trouble, f"The exporter cannot be read: {error}."))
        if self._stack and scrape.stack and not scrape.stack.is_same(self._stack):
            other = f"The exporter belongs to another stack: {scrape.stack}, and not {self._stack}."
            return _build_empty((*trouble, other))
        history = self._history
        history.add(scrape)
        values = {query: history.read_values(query, window_seconds=WINDOW_SECONDS) for query in TABULATED}
        return View(
            taken_at=scrape.taken_at,
            source="exporter",
            scrape=scrape,
            series={query: history.read_series(query, window_seconds=WINDOW_SECONDS) for query in CHARTED},
            values=values,
            alerts=find_conditions(scrape, values[POOL_TIMEOUTS]),
            trouble=trouble,
            points=len(history),
        )


def _read_prometheus(prometheus: Prometheus, span_seconds: int) -> View:
    end = datetime.now(UTC)
    start = end - timedelta(seconds=span_seconds)
    step = max(MINIMUM_STEP_SECONDS, span_seconds // CHART_POINTS)
    return View(
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
        trouble=(),
        points=span_seconds // step,
    )


def _build_empty(trouble: tuple[str, ...]) -> View:
    return View(
        taken_at=datetime.now(UTC),
        source="none",
        scrape=None,
        series={},
        values={},
        alerts=(),
        trouble=trouble,
        points=0,
    )


def open_telemetry(settings: Settings) -> Telemetry:
    """Return the telemetry that the settings describe; reads nothing yet."""
    url = settings.prometheus_url
    return Telemetry(
        exporter_url=settings.find_exporter_url(),
        prometheus=Prometheus(url.get_secret_value()) if url else None,
        # one that was named is meant, whoever's it is
        stack=settings.identify_stack() if settings.exporter_url is None else None,
    )
