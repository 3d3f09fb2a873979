"""The health cards and the tables of the Operations page; pure functions.

Owns the limits at which a card changes its colour. Times are in milliseconds and sizes in MiB.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
import pandas as pd

from core.metrics.scrape import Scrape
from core.records import Health, StatementFigures, TableFigures, UnusedIndex
from dashboard.pages.operations.charts import MEBIBYTE, QUANTILES
from dashboard.pages.operations.queries import (
    OPERATION_CALLS,
    OPERATION_ERRORS,
    OPERATION_LATENCY,
    Query,
    Values,
)

State = Literal["good", "warning", "bad", "unknown"]
STATEMENT_LETTERS = 300


class HealthCard(msgspec.Struct, frozen=True):
    """The health of one part of the stack; `topic` is a section of the troubleshooting page."""

    label: str
    value: str
    state: State
    detail: str
    topic: str


_CHECKED: dict[str, tuple[str, State]] = {
    "healthy": ("Up", "good"),
    "degraded": ("Limited", "warning"),
    "unhealthy": ("Down", "bad"),
}
_STATES: dict[str | None, State] = {"healthy": "good", "degraded": "warning", "unhealthy": "bad"}


def build_cards(scrape: Scrape) -> tuple[HealthCard, ...]:
    """Return the cards from one scrape."""
    status = scrape.find_status()
    collectors = scrape.sum_by("echo_scrape_collector_success", "collector")
    failing = sorted(name for (name,), works in collectors.items() if not works)
    return (
        HealthCard(
            label="Stack",
            value=(status or "unknown").capitalize(),
            state=_STATES.get(status, "unknown"),
            detail=f"collectors failing: {', '.join(failing)}" if failing else "all collectors work",
            topic="health",
        ),
        _build_service(scrape, "database", "PostgreSQL", "health"),
        _build_redis(scrape),
        _build_migrations(scrape.find("echo_migrations_pending"), scrape.find("echo_migrations_applied")),
        _build_pool(scrape),
        _build_processes(scrape),
    )


def build_own_cards(health: Health) -> tuple[HealthCard, ...]:
    """Return the cards from the dashboard's own health check, for when the exporter does not answer."""
    pending = health.migrations_pending
    pool = health.pool
    return (
        HealthCard(
            "Stack", health.status.capitalize(), _STATES.get(health.status, "unknown"), "own check", "health"
        ),
        _build_check(
            "PostgreSQL", health.database, health.database_seconds, "health", health.database_reason
        ),
        _build_check("Redis", health.redis, health.redis_seconds, "redis", health.redis_reason),
        _build_migrations(None if pending is None else float(pending), None),
        HealthCard(
            "Connections",
            f"{pool.pool_in_use} of {pool.pool_max}",
            "warning" if pool.requests_waiting or pool.is_exhausted else "good",
            f"{pool.requests_waiting} waiting, this dashboard",
            "pool",
        ),
    )


def _build_check(label: str, state: str, seconds: float, topic: str, reason: str | None = None) -> HealthCard:
    if state == "disabled":
        return HealthCard(label, "Disabled", "good", "the cache is switched off", topic)
    name, colour = _CHECKED[state]
    return HealthCard(label, name, colour, reason or f"checked in {_ms(seconds)}", topic)


def _build_service(scrape: Scrape, service: str, label: str, topic: str) -> HealthCard:
    up = scrape.find("echo_service_up", service=service)
    if up is None:
        return HealthCard(label, "Unknown", "unknown", "no check published", topic)
    seconds = scrape.total("echo_service_check_duration_seconds", service=service)
    reason = scrape.reasons.get(service)
    state = "unhealthy" if not up else "degraded" if reason else "healthy"
    return _build_check(label, state, seconds, topic, reason)


def _build_redis(scrape: Scrape) -> HealthCard:
    if scrape.find("echo_service_up", service="redis") is None and "echo_service_up" in scrape:
        return _build_check("Redis", "disabled", 0.0, "redis")
    card = _build_service(scrape, "redis", "Redis", "redis")
    if card.state == "good" and scrape.total("echo_cache_breaker_open"):
        return HealthCard("Redis", "Bypassed", "warning", "a circuit breaker is open", "redis")
    return card


def _build_migrations(pending: float | None, applied: float | None) -> HealthCard:
    if pending is None:
        return HealthCard("Migrations", "Unknown", "unknown", "database not checked", "migrations")
    detail = "" if applied is None else f"{applied:.0f} applied"
    if pending:
        return HealthCard("Migrations", f"{pending:.0f} pending", "warning", detail, "migrations")
    return HealthCard("Migrations", "Up to date", "good", detail, "migrations")


def _build_pool(scrape: Scrape) -> HealthCard:
    limit = scrape.find("echo_db_pool_max_connections")
    if limit is None:
        return HealthCard("Connections", "Unknown", "unknown", "no pool published", "pool")
    used = scrape.total("echo_db_pool_connections", state="used")
    waiting = scrape.total("echo_db_pool_pending_requests")
    limits = scrape.sum_by("echo_db_pool_max_connections", "role")
    in_use = scrape.sum_by("echo_db_pool_connections", "role", state="used")
    full = sorted(role for (role,), most in limits.items() if 0 < most <= in_use.get((role,), 0.0))
    state: State = "warning" if waiting or full else "good"
    detail = f"{waiting:.0f} waiting, {'exhausted: ' + ', '.join(full) if full else 'all pools'}"
    return HealthCard("Connections", f"{used:.0f} of {limit:.0f}", state, detail, "pool")


def _build_processes(scrape: Scrape) -> HealthCard:
    writers = scrape.sum_by("echo_metrics_writers", "role")
    count = sum(writers.values())
    roles = ", ".join(f"{role} {number:.0f}" for (role,), number in sorted(writers.items()) if number)
    return HealthCard(
        "Processes",
        f"{count:.0f}",
        "good" if count else "unknown",
        roles or "no process writes metrics",
        "health",
    )


def describe_memory(scrape: Scrape) -> str:
    """Write how much memory Redis uses; empty when that is unknown."""
    used = scrape.find("echo_redis_memory_used_bytes")
    if used is None:
        return ""
    limit = scrape.total("echo_redis_memory_max_bytes")
    evicted = scrape.total("echo_redis_evicted_keys_total")
    of_limit = f" of {limit / MEBIBYTE:,.0f} MiB ({used / limit:.0%})" if limit else " without a limit"
    return f"{used / MEBIBYTE:,.1f} MiB{of_limit}, {evicted:,.0f} keys evicted since it started."


def build_operations_table(values: dict[Query, Values]) -> pd.DataFrame:
    """Return the operations with traffic, most calls first: rates per second, quantiles in ms."""
    calls = values.get(OPERATION_CALLS, {})
    errors = values.get(OPERATION_ERRORS, {})
    rows = [
        {
            "operation": key[0],
            "calls": rate,
            "errors": errors.get(key, 0.0),
            **{
                name: _read_ms(values, query, key)
                for name, query in zip(QUANTILES, OPERATION_LATENCY, strict=True)
            },
        }
        for key, rate in sorted(calls.items(), key=lambda item: (-item[1], item[0]))
        if rate > 0
    ]
    return pd.DataFrame(rows, columns=["operation", "calls", "errors", *QUANTILES])


def _read_ms(values: dict[Query, Values], query: Query, key: tuple[str, ...]) -> float | None:
    seconds = values.get(query, {}).get(key)
    return None if seconds is None else seconds * 1000


def build_statements_table(statements: Sequence[StatementFigures]) -> pd.DataFrame:
    """Return the statements with most total time, each on one line."""
    rows = [
        {
            "operation": item.operation,
            "total": item.total_seconds,
            "mean": item.mean_seconds * 1000,
            "calls": item.calls,
            "rows": item.rows / item.calls if item.calls else 0.0,
            "statement": " ".join(item.statement.split())[:STATEMENT_LETTERS],
        }
        for item in statements
    ]
    return pd.DataFrame(rows, columns=["operation", "total", "mean", "calls", "rows", "statement"])


def build_sizes_table(tables: Iterable[TableFigures]) -> pd.DataFrame:
    """Return the tables, largest first, sizes in MiB."""
    rows = [
        {
            "table": item.table,
            "size": item.size_bytes / MEBIBYTE,
            "indexes": item.index_size_bytes / MEBIBYTE,
            "rows": item.rows,
        }
        for item in sorted(tables, key=lambda item: -(item.size_bytes + item.index_size_bytes))
    ]
    return pd.DataFrame(rows, columns=["table", "size", "indexes", "rows"])


def build_indexes_table(indexes: Iterable[UnusedIndex]) -> pd.DataFrame:
    """Return the unused indexes in the order given, sizes in MiB."""
    rows = [
        {"index": item.index, "table": item.table, "size": item.size_bytes / MEBIBYTE} for item in indexes
    ]
    return pd.DataFrame(rows, columns=["index", "table", "size"])


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms"
