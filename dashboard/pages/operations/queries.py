"""The queries of the Operations page over metrics, in PromQL and over a short history of scrapes.

Owns the names of the metrics that the page depends on, and the arithmetic of rates: a counter that went
down was restarted, as in Prometheus. Reads nothing itself.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Literal

import msgspec

from core.metrics.scrape import Scrape, estimate_quantile

OPERATION = "echo_db_operation_duration_seconds"

WINDOW_SECONDS = 120
"""The window of a rate: several scrapes of Prometheus (15 s), and still the present state."""


HISTORY_POINTS = 180
"""A quarter of an hour at one scrape in five seconds; a few megabytes."""

GAP_SECONDS = 300
"""After a longer gap between scrapes the history starts again: a rate over the gap would mislead."""

Key = tuple[str, ...]
Values = dict[Key, float]


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A gauge's sum, a counter's rate, a ratio of two rates or a quantile, by some labels."""

    kind: Literal["sum", "rate", "ratio", "quantile"]
    metric: str
    by: tuple[str, ...] = ()
    where: tuple[tuple[str, str], ...] = ()
    divisor: str = ""
    quantile: float = 0.0


class Operand(msgspec.Struct, frozen=True):
    """What a query needs from each scrape: the sums of one metric by labels."""

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
LATENCY = tuple(Query(kind="quantile", metric=OPERATION, quantile=part) for part in (0.5, 0.95, 0.99))
OPERATION_LATENCY = tuple(
    Query(kind="quantile", metric=OPERATION, quantile=part, by=("op",)) for part in (0.5, 0.95, 0.99)
)
OPERATION_CALLS = Query(kind="rate", metric=f"{OPERATION}_count", by=("op",))
OPERATION_ERRORS = Query(kind="rate", metric="echo_db_operation_errors_total", by=("op",))
REDIS_MEMORY = Query(kind="sum", metric="echo_redis_memory_used_bytes")

CHARTED = (POOL_USED, POOL_WAITING, HIT_RATIO, *LATENCY, REDIS_MEMORY)
"""Shown over time."""

TABULATED = (POOL_TIMEOUTS, OPERATION_CALLS, OPERATION_ERRORS, *OPERATION_LATENCY)
"""Shown as they are now."""

PRESENT = (
    "echo_build_info",
    "echo_cache_breaker_open",
    "echo_dashboard_sessions",
    "echo_db_pool_connections",
    "echo_db_pool_max_connections",
    "echo_db_pool_pending_requests",
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
"""Read as samples of the present."""


def build_promql(query: Query, *, window_seconds: int = WINDOW_SECONDS) -> str:
    """Return the query in PromQL."""
    by = f" by ({', '.join(query.by)})" if query.by else ""
    labels = _build_selector(query.where)
    if query.kind == "sum":
        return f"sum{by} ({query.metric}{labels})"
    if query.kind == "quantile":
        grouped = ", ".join(("le", *query.by))
        rates = f"sum by ({grouped}) (rate({query.metric}_bucket{labels}[{window_seconds}s]))"
        return f"histogram_quantile({query.quantile:g}, {rates})"
    rate = f"sum{by} (rate({query.metric}{labels}[{window_seconds}s]))"
    if query.kind == "rate":
        return rate
    return f"{rate} / (sum{by} (rate({query.divisor}{labels}[{window_seconds}s])) > 0)"


def _build_selector(where: tuple[tuple[str, str], ...]) -> str:
    pairs = ", ".join(f'{name}="{value}"' for name, value in where)
    return f"{{{pairs}}}" if pairs else ""


def build_present_promql() -> str:
    """Return the selector of all present samples."""
    return f'{{__name__=~"{"|".join(PRESENT)}"}}'


def list_operands(query: Query) -> tuple[Operand, ...]:
    """Return what the query needs of each scrape; the divisor comes second."""
    if query.kind == "quantile":
        return (Operand(f"{query.metric}_bucket", (*query.by, "le"), query.where, True),)
    first = Operand(query.metric, query.by, query.where, query.kind != "sum")
    return (first, Operand(query.divisor, query.by, query.where, True)) if query.divisor else (first,)


class Series(msgspec.Struct, frozen=True):
    """One line of a chart: the values of its labels, and points in time, oldest first."""

    labels: Key
    points: tuple[tuple[datetime, float], ...]


class _Point(msgspec.Struct, frozen=True):
    taken_at: datetime
    values: dict[Operand, Values]


class History:
    """The last scrapes; counters are kept as their growth since the first one. Not thread safe."""

    def __init__(self, queries: Iterable[Query], *, points: int = HISTORY_POINTS) -> None:
        self._operands = tuple({item for query in queries for item in list_operands(query)})
        self._points: deque[_Point] = deque(maxlen=points)
        self._raw: dict[Operand, Values] = {}

    def __len__(self) -> int:
        return len(self._points)

    def add(self, scrape: Scrape) -> None:
        """Append a scrape unless it is older than the last one."""
        last = self._points[-1] if self._points else None
        if last is not None and scrape.taken_at <= last.taken_at:
            return
        if last is not None and (scrape.taken_at - last.taken_at).total_seconds() > GAP_SECONDS:
            self._points.clear()
            self._raw.clear()
            last = None
        values: dict[Operand, Values] = {}
        for operand in self._operands:
            found = scrape.sum_by(operand.metric, *operand.by, **dict(operand.where))
            grown = self._grow(operand, found, last) if operand.is_counter else found
            values[operand] = grown
        self._points.append(_Point(scrape.taken_at, values))

    def _grow(self, operand: Operand, found: Values, last: _Point | None) -> Values:
        raw = self._raw.setdefault(operand, {})
        if last is None:
            raw.update(found)
            return dict.fromkeys(found, 0.0)
        # a counter that is missing, because a collector failed, keeps its value
        grown = dict(last.values[operand])
        for key, value in found.items():
            before = raw.get(key, 0.0)
            grown[key] = grown.get(key, 0.0) + (value - before if value >= before else value)
            raw[key] = value
        return grown

    def read_series(self, query: Query, *, window_seconds: float) -> tuple[Series, ...]:
        """Return the query's lines over all points; a rate is over the window before each."""
        lines: dict[Key, list[tuple[datetime, float]]] = {}
        for index, point in enumerate(self._points):
            for key, value in self._answer(query, index, window_seconds).items():
                lines.setdefault(key, []).append((point.taken_at, value))
        return tuple(Series(key, tuple(points)) for key, points in sorted(lines.items()))

    def read_values(self, query: Query, *, window_seconds: float) -> Values:
        """Return the query's values at the last scrape."""
        return self._answer(query, len(self._points) - 1, window_seconds) if self._points else {}

    def _answer(self, query: Query, index: int, window_seconds: float) -> Values:
        operands = list_operands(query)
        if query.kind == "sum":
            return self._points[index].values[operands[0]]
        rates = [self._rates(item, index, window_seconds) for item in operands]
        if query.kind == "rate":
            return rates[0]
        if query.kind == "ratio":
            return {key: rates[0].get(key, 0.0) / value for key, value in rates[1].items() if value > 0}
        return dict(_quantiles(query.quantile, rates[0]))

    def _rates(self, operand: Operand, index: int, window_seconds: float) -> Values:
        point = self._points[index]
        first = index
        while first and (point.taken_at - self._points[first - 1].taken_at).total_seconds() <= window_seconds:
            first -= 1
        if first == index:
            return {}
        start = self._points[first]
        seconds = (point.taken_at - start.taken_at).total_seconds()
        before = start.values[operand]
        return {key: (value - before.get(key, 0.0)) / seconds for key, value in point.values[operand].items()}


def _quantiles(quantile: float, rates: Values) -> Iterator[tuple[Key, float]]:
    histograms: dict[Key, dict[float, float]] = {}
    for (*labels, bound), rate in rates.items():
        histograms.setdefault(tuple(labels), {})[float(bound)] = rate
    for key, buckets in histograms.items():
        value = estimate_quantile(quantile, buckets)
        if value is not None:
            yield key, value
