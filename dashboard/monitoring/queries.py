"""The queries of the Operations page. Their values come from Prometheus (PromQL) or from an hour of scrapes.

Owns the names of the metrics that the page needs, and the computation of rates from scrapes. A counter whose
value went down has begun again at 0; Prometheus has the same rule. Sends no requests itself.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Literal

import msgspec
from prometheus_client.samples import Sample

from core.metrics.scrape import Scrape, estimate_quantile

OPERATION = "echo_db_operation_duration_seconds"

WINDOW_SECONDS = 120
"""The window of a rate: long enough for several scrapes of Prometheus (15 s), short enough to be current."""

HISTORY_SECONDS = 3600
CHART_STEP_SECONDS = 15
"""Time between two points of a chart. It is Prometheus's scrape interval: 240 points an hour per line."""

Key = tuple[str, ...]
Values = dict[Key, float]


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """The sum or maximum of a gauge, the rate of a counter, the ratio of two rates, or a quantile.

    The values are grouped by the labels `by`. The maximum is for gauges of PostgreSQL and Redis, because
    several exporters report the same value of such a gauge.
    """

    kind: Literal["sum", "max", "rate", "ratio", "quantile"]
    metric: str
    by: tuple[str, ...] = ()
    where: tuple[tuple[str, str], ...] = ()
    divisor: str = ""
    quantile: float = 0.0


class Operand(msgspec.Struct, frozen=True):
    """A metric that a query needs from each scrape. Its samples are summed by the labels `by`."""

    metric: str
    by: tuple[str, ...]
    where: tuple[tuple[str, str], ...]
    is_counter: bool


POOL_USED = Query(kind="sum", metric="echo_db_pool_connections", by=("role",), where=(("state", "used"),))
POOL_WAITING = Query(kind="sum", metric="echo_db_pool_pending_requests", by=("role",))
POOL_TIMEOUTS = Query(kind="rate", metric="echo_db_pool_timeouts_total", by=("role",))
HIT_RATIO = Query(
    kind="ratio", metric="echo_cache_hits_total", divisor="echo_cache_requests_total", by=("cache", "tier")
)
CACHE_BYPASSES = Query(kind="rate", metric="echo_cache_bypasses_total")
LATENCY = tuple(Query(kind="quantile", metric=OPERATION, quantile=part) for part in (0.5, 0.95, 0.99))
OPERATION_LATENCY = tuple(
    Query(kind="quantile", metric=OPERATION, quantile=part, by=("op",)) for part in (0.5, 0.95, 0.99)
)
OPERATION_CALLS = Query(kind="rate", metric=f"{OPERATION}_count", by=("op",))
OPERATION_ERRORS = Query(kind="rate", metric="echo_db_operation_errors_total", by=("op",))
REDIS_MEMORY = Query(kind="max", metric="echo_redis_memory_used_bytes")

CHARTED = (POOL_USED, POOL_WAITING, HIT_RATIO, *LATENCY, REDIS_MEMORY)
"""Queries whose values are shown over time."""

TABULATED = (POOL_TIMEOUTS, CACHE_BYPASSES, OPERATION_CALLS, OPERATION_ERRORS, *OPERATION_LATENCY)
"""Queries of which only the current values are shown."""

PRESENT = (
    "echo_build_info",
    "echo_cache_breaker_open",
    "echo_dashboard_sessions",
    "echo_db_pool_connections",
    "echo_db_pool_max_connections",
    "echo_db_pool_pending_requests",
    "echo_db_replica_lag_seconds",
    "echo_db_replica_out",
    "echo_health_status",
    "echo_metrics_writers",
    "echo_migrations_applied",
    "echo_migrations_pending",
    "echo_pg_max_connections",
    "echo_pg_oldest_transaction_age_seconds",
    "echo_pg_replication_lag_seconds",
    "echo_redis_evicted_keys_total",
    "echo_redis_memory_max_bytes",
    "echo_redis_memory_used_bytes",
    "echo_scrape_collector_success",
    "echo_service_check_duration_seconds",
    "echo_service_up",
    "echo_task_interval_seconds",
    "echo_task_last_success_timestamp_seconds",
)
"""Metrics of which only the current samples are needed."""


class ReportedByAll(msgspec.Struct, frozen=True):
    """Metrics that every exporter reports, because they describe a server and not the exporter's process.

    `aggregation` says whether the smallest or the largest of the reported values is shown.
    """

    aggregation: Literal["min", "max"]
    metrics: tuple[str, ...]
    by: tuple[str, ...] = ()

    def build_promql(self) -> str:
        """Return the PromQL query for these metrics: one series for all exporters, not one per exporter."""
        return f"{self.aggregation} by ({', '.join(('__name__', *self.by))}) ({_select(self.metrics)})"


REPORTED_BY_ALL = (
    ReportedByAll("min", ("echo_service_up",), by=("service",)),
    ReportedByAll("min", ("echo_scrape_collector_success",), by=("collector",)),
    ReportedByAll("max", ("echo_service_check_duration_seconds",), by=("service",)),
    ReportedByAll("max", ("echo_pg_replication_lag_seconds",), by=("replica",)),
    ReportedByAll(
        "max", ("echo_task_interval_seconds", "echo_task_last_success_timestamp_seconds"), by=("task",)
    ),
    ReportedByAll(
        "max",
        (
            "echo_migrations_applied",
            "echo_migrations_pending",
            "echo_pg_max_connections",
            "echo_pg_oldest_transaction_age_seconds",
            "echo_redis_evicted_keys_total",
            "echo_redis_memory_max_bytes",
            "echo_redis_memory_used_bytes",
        ),
    ),
)


def build_promql(query: Query) -> str:
    """Return the query in PromQL."""
    by = f" by ({', '.join(query.by)})" if query.by else ""
    labels = _build_selector(query.where)
    if query.kind in {"sum", "max"}:
        return f"{query.kind}{by} ({query.metric}{labels})"
    if query.kind == "quantile":
        grouped = ", ".join(("le", *query.by))
        rates = f"sum by ({grouped}) (rate({query.metric}_bucket{labels}[{WINDOW_SECONDS}s]))"
        return f"histogram_quantile({query.quantile:g}, {rates})"
    rate = f"sum{by} (rate({query.metric}{labels}[{WINDOW_SECONDS}s]))"
    if query.kind == "rate":
        return rate
    return f"{rate} / (sum{by} (rate({query.divisor}{labels}[{WINDOW_SECONDS}s])) > 0)"


def _build_selector(where: tuple[tuple[str, str], ...]) -> str:
    pairs = ", ".join(f'{name}="{value}"' for name, value in where)
    return f"{{{pairs}}}" if pairs else ""


def build_present_promql() -> str:
    """Return the PromQL query for the metrics in PRESENT.

    The metrics in REPORTED_BY_ALL are returned once, not once per exporter.
    """
    once = [name for aggregated in REPORTED_BY_ALL for name in aggregated.metrics]
    own = _select(name for name in PRESENT if name not in once)
    return " or ".join((own, *(each.build_promql() for each in REPORTED_BY_ALL)))


def _select(names: Iterable[str]) -> str:
    return f'{{__name__=~"{"|".join(names)}"}}'


def list_operands(query: Query) -> tuple[Operand, ...]:
    """Return the operands of a query. In a ratio, the divisor is the second one."""
    if query.kind == "quantile":
        return (Operand(f"{query.metric}_bucket", (*query.by, "le"), query.where, True),)
    first = Operand(query.metric, query.by, query.where, query.kind not in {"sum", "max"})
    return (first, Operand(query.divisor, query.by, query.where, True)) if query.divisor else (first,)


class Series(msgspec.Struct, frozen=True):
    """One line of a chart: the values of its labels, and its points (time, value), oldest first."""

    labels: Key
    points: tuple[tuple[datetime, float], ...]


class _Sums(msgspec.Struct, frozen=True):
    """The sum of each operand in the scrape of the monotonic time `at`.

    For a gauge, it is the sum of the samples. For a counter, it is the sum of the growth of all samples since
    the first scrape.
    """

    at: float
    values: dict[Operand, Values]


class MetricHistory:
    """An hour of charted values, and the current rates, computed from successive scrapes.

    Not thread safe. To limit memory, it stores the sums of a scrape only for the window of a rate, and older
    values only as points of charts. A time without a scrape has no point.
    """

    def __init__(self, charted: Iterable[Query], tabulated: Iterable[Query] = ()) -> None:
        self._charted, self._tabulated = tuple(charted), tuple(tabulated)
        queries = (*self._charted, *self._tabulated)
        self._operands = tuple({item for query in queries for item in list_operands(query)})
        self._sums: deque[_Sums] = deque()
        self._raw: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
        self._lines: dict[Query, dict[Key, deque[tuple[datetime, float]]]] = {}
        self.values: dict[Query, Values] = {}
        """The values of the tabulated queries at the last scrape."""

    def add(self, scrape: Scrape, *, at: float) -> None:
        """Add a scrape. `at` is its monotonic time in seconds."""
        last = self._sums[-1].values if self._sums else {}
        # true if no earlier scrape had counters; one flag is enough, because one collector reports all
        # counters
        is_first = not any(self._raw.values())
        grown = {
            name: self._find_growth(scrape, name, is_first=is_first)
            for name in {operand.metric for operand in self._operands if operand.is_counter}
        }
        values: dict[Operand, Values] = {}
        for operand in self._operands:
            if operand.is_counter:
                # if the collector of the counters failed, the scrape has no counters, and their last sums
                # stay
                values[operand] = _add_growth(operand, grown[operand.metric], last.get(operand, {}))
            else:
                values[operand] = scrape.sum_by(operand.metric, *operand.by, **dict(operand.where))
        self._sums.append(_Sums(at, values))
        while at - self._sums[0].at > WINDOW_SECONDS:
            self._sums.popleft()
        self.values = {query: self._find_values(query) for query in self._tabulated}
        for query in self._charted:
            self._add_points(query, scrape.taken_at)

    def _find_growth(self, scrape: Scrape, name: str, *, is_first: bool) -> list[tuple[Sample, float]]:
        """Return the samples of a counter with their growth since the previous scrape.

        The growth is computed for each sample, and the caller adds it up. If the values were added up first,
        the growth of some samples could hide that another sample went down after a restart. A sample that
        first appears after the first scrape with counters has grown from 0.
        """
        raw = self._raw.setdefault(name, {})
        found = []
        for sample in scrape.select(name):
            key = frozenset(sample.labels.items())
            before = raw.get(key, sample.value if is_first else 0.0)
            found.append((sample, sample.value - before if sample.value >= before else sample.value))
        raw.update((frozenset(sample.labels.items()), sample.value) for sample, _ in found)
        return found

    def _add_points(self, query: Query, moment: datetime) -> None:
        lines = self._lines.setdefault(query, {})
        for key, value in self._find_values(query).items():
            points = lines.setdefault(key, deque())
            while points and points[-1][0] > moment:
                points.pop()  # the clock was set back: remove the points that are now in the future
            if not points or (moment - points[-1][0]).total_seconds() > CHART_STEP_SECONDS * 0.9:
                points.append((moment, value))
        oldest = moment - timedelta(seconds=HISTORY_SECONDS)
        for key, points in list(lines.items()):
            while points and points[0][0] < oldest:
                points.popleft()
            if not points:
                del lines[key]

    def list_series(self) -> dict[Query, tuple[Series, ...]]:
        """Return the lines of each charted query.

        For a rate, the value of a point is the rate in the window that ends at the time of the point.
        """
        return {
            query: tuple(Series(key, tuple(points)) for key, points in sorted(lines.items()))
            for query, lines in self._lines.items()
        }

    def _find_values(self, query: Query) -> Values:
        operands = list_operands(query)
        if query.kind in {"sum", "max"}:
            # the sum equals the maximum: a scrape comes from one exporter, and has one sample of a server's
            # gauge
            return self._sums[-1].values[operands[0]]
        rates = [self._find_rates(item) for item in operands]
        if query.kind == "rate":
            return rates[0]
        if query.kind == "ratio":
            return {key: rates[0].get(key, 0.0) / value for key, value in rates[1].items() if value > 0}
        return dict(_quantiles(query.quantile, rates[0]))

    def _find_rates(self, operand: Operand) -> Values:
        first, last = self._sums[0], self._sums[-1]
        seconds = last.at - first.at
        if seconds <= 0:
            return {}
        before = first.values[operand]
        return {key: (value - before.get(key, 0.0)) / seconds for key, value in last.values[operand].items()}


def _add_growth(operand: Operand, growth: Iterable[tuple[Sample, float]], before: Values) -> Values:
    sums = dict(before)
    for sample, grown in growth:
        if all(sample.labels.get(name) == value for name, value in operand.where):
            key = tuple(sample.labels.get(label, "") for label in operand.by)
            sums[key] = sums.get(key, 0.0) + grown
    return sums


def _quantiles(quantile: float, rates: Values) -> Iterator[tuple[Key, float]]:
    histograms: dict[Key, dict[float, float]] = {}
    for (*labels, bound), rate in rates.items():
        histograms.setdefault(tuple(labels), {})[float(bound)] = rate
    for key, buckets in histograms.items():
        value = estimate_quantile(quantile, buckets)
        if value is not None:
            yield key, value
