"""The questions that the page asks of metrics, independent of who answers.

Owns the names of the metrics that it depends on, and how a question reads in PromQL. The
same question is answered from a short history in `dashboard.operations.history`.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

OPERATION = "echo_db_operation_duration_seconds"

WINDOW_SECONDS = 120
"""What a rate is over: several scrapes of Prometheus (15 s), and yet today's state."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A gauge's sum, a counter's rate, a ratio of two rates or a quantile, by some labels."""

    kind: Literal["sum", "rate", "ratio", "quantile"]
    metric: str
    by: tuple[str, ...] = ()
    where: tuple[tuple[str, str], ...] = ()
    divisor: str = ""
    quantile: float = 0.0


class Operand(msgspec.Struct, frozen=True):
    """What has to be known of a scrape to answer a query: sums of one metric by labels."""

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
"""Read as samples: the state of the moment."""


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
    """Return the selector of everything that is read as it is now."""
    return f'{{__name__=~"{"|".join(PRESENT)}"}}'


def list_operands(query: Query) -> tuple[Operand, ...]:
    """Return what the query needs of each scrape; the divisor comes second."""
    if query.kind == "quantile":
        return (Operand(f"{query.metric}_bucket", (*query.by, "le"), query.where, True),)
    first = Operand(query.metric, query.by, query.where, query.kind != "sum")
    return (first, Operand(query.divisor, query.by, query.where, True)) if query.divisor else (first,)


def list_metrics(queries: Iterable[Query] = (*CHARTED, *TABULATED)) -> frozenset[str]:
    """Return the sample names that the page depends on, all of which an exporter must publish."""
    return frozenset({item.metric for query in queries for item in list_operands(query)} | set(PRESENT))
