"""The fleet's view turned into cards and tables.

Owns the shape of what the page shows and when a figure looks bad; pure functions. Times are
in milliseconds and sizes in MiB here, because people read them.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Literal

import msgspec
import pandas as pd

from core.records import Health, StatementFigures, TableFigures, UnusedIndex
from core.scrape import Scrape
from dashboard.operations.history import Series, Values
from dashboard.operations.queries import (
    HIT_RATIO,
    LATENCY,
    OPERATION_CALLS,
    OPERATION_ERRORS,
    OPERATION_LATENCY,
    POOL_USED,
    POOL_WAITING,
    REDIS_MEMORY,
    Query,
)
from dashboard.operations.telemetry import View

State = Literal["good", "warning", "bad", "unknown"]
MEBIBYTE = 1024 * 1024
STATEMENT_LETTERS = 300
QUANTILES = ("p50", "p95", "p99")
GAP_STEPS = 2.5
"""Points that are further apart are not connected: in between was nothing, or nobody looked."""


class Card(msgspec.Struct, frozen=True):
    """One part of the health strip; `topic` is its section of the troubleshooting page."""

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


def build_cards(scrape: Scrape) -> tuple[Card, ...]:
    """Return the health strip from one scrape."""
    status = scrape.find_status()
    collectors = scrape.sum_by("echo_scrape_collector_success", "collector")
    failing = sorted(name for (name,), works in collectors.items() if not works)
    return (
        Card(
            label="Stack",
            value=(status or "unknown").capitalize(),
            state=_STATES.get(status, "unknown"),
            detail=f"collectors failing: {', '.join(failing)}" if failing else "every collector works",
            topic="health",
        ),
        _build_service(scrape, "database", "PostgreSQL", "health"),
        _build_redis(scrape),
        _build_migrations(scrape.find("echo_migrations_pending"), scrape.find("echo_migrations_applied")),
        _build_pool(scrape),
        _build_processes(scrape),
    )


def build_own_cards(health: Health) -> tuple[Card, ...]:
    """Return the health strip from the dashboard's own check, when the exporter is silent."""
    pending = health.migrations_pending
    pool = health.pool
    return (
        Card(
            "Stack", health.status.capitalize(), _STATES.get(health.status, "unknown"), "own check", "health"
        ),
        _build_check(
            "PostgreSQL", health.database, health.database_seconds, "health", health.database_reason
        ),
        _build_check("Redis", health.redis, health.redis_seconds, "redis", health.redis_reason),
        _build_migrations(None if pending is None else float(pending), None),
        Card(
            "Connections",
            f"{pool.pool_in_use} of {pool.pool_max}",
            "warning" if pool.requests_waiting or pool.is_exhausted else "good",
            f"{pool.requests_waiting} waiting, this dashboard",
            "pool",
        ),
    )


def _build_check(label: str, state: str, seconds: float, topic: str, reason: str | None = None) -> Card:
    if state == "disabled":
        return Card(label, "Disabled", "good", "the cache is switched off", topic)
    name, colour = _CHECKED[state]
    return Card(label, name, colour, reason or f"checked in {_ms(seconds)}", topic)


def _build_service(scrape: Scrape, service: str, label: str, topic: str) -> Card:
    up = scrape.find("echo_service_up", service=service)
    if up is None:
        return Card(label, "Unknown", "unknown", "no check was published", topic)
    seconds = scrape.total("echo_service_check_duration_seconds", service=service)
    reason = scrape.reasons.get(service)
    state = "unhealthy" if not up else "degraded" if reason else "healthy"
    return _build_check(label, state, seconds, topic, reason)


def _build_redis(scrape: Scrape) -> Card:
    if scrape.find("echo_service_up", service="redis") is None and "echo_service_up" in scrape:
        return _build_check("Redis", "disabled", 0.0, "redis")
    card = _build_service(scrape, "redis", "Redis", "redis")
    if card.state == "good" and scrape.total("echo_cache_breaker_open"):
        return Card("Redis", "Bypassed", "warning", "a circuit breaker is open", "redis")
    return card


def _build_migrations(pending: float | None, applied: float | None) -> Card:
    if pending is None:
        return Card("Migrations", "Unknown", "unknown", "the database was not asked", "migrations")
    detail = "" if applied is None else f"{applied:.0f} applied"
    if pending:
        return Card("Migrations", f"{pending:.0f} pending", "warning", detail, "migrations")
    return Card("Migrations", "Up to date", "good", detail, "migrations")


def _build_pool(scrape: Scrape) -> Card:
    limit = scrape.find("echo_db_pool_max_connections")
    if limit is None:
        return Card("Connections", "Unknown", "unknown", "no pool was published", "pool")
    used = scrape.total("echo_db_pool_connections", state="used")
    waiting = scrape.total("echo_db_pool_pending_requests")
    limits = scrape.sum_by("echo_db_pool_max_connections", "role")
    in_use = scrape.sum_by("echo_db_pool_connections", "role", state="used")
    full = sorted(role for (role,), most in limits.items() if 0 < most <= in_use.get((role,), 0.0))
    state: State = "warning" if waiting or full else "good"
    detail = f"{waiting:.0f} waiting, {'no more for ' + ', '.join(full) if full else 'all pools'}"
    return Card("Connections", f"{used:.0f} of {limit:.0f}", state, detail, "pool")


def _build_processes(scrape: Scrape) -> Card:
    writers = scrape.sum_by("echo_metrics_writers", "role")
    count = sum(writers.values())
    roles = ", ".join(f"{role} {number:.0f}" for (role,), number in sorted(writers.items()) if number)
    return Card(
        "Processes", f"{count:.0f}", "good" if count else "unknown", roles or "none writes metrics", "health"
    )


def build_latency_frame(view: View) -> pd.DataFrame:
    """Return time, series (p50, p95, p99) and value in milliseconds."""
    return _build_frame(
        (name, line, 1000.0)
        for name, query in zip(QUANTILES, LATENCY, strict=True)
        for line in view.series.get(query, ())
    )


def build_pool_frame(view: View) -> pd.DataFrame:
    """Return time, series (role), kind (in use, waiting) and value in connections."""
    frames = [
        _build_frame((line.labels[0], line, 1.0) for line in view.series.get(query, ())).assign(kind=kind)
        for query, kind in ((POOL_USED, "in use"), (POOL_WAITING, "waiting"))
    ]
    return pd.concat(frames, ignore_index=True)


def build_hit_frame(view: View) -> pd.DataFrame:
    """Return time and the next one as until, series (cache and tier) and value in percent."""
    lines = ((" · ".join(line.labels), line, 100.0) for line in view.series.get(HIT_RATIO, ()))
    frame = _build_frame(lines).dropna(ignore_index=True)
    moments = sorted(frame["time"].unique())
    step = _find_step(moments)
    ends = {
        moment: following if following - moment <= GAP_STEPS * step else moment + step
        for moment, following in pairwise(moments)
    }
    return frame.assign(until=[ends.get(moment, view.taken_at) for moment in frame["time"]])


def build_memory_frame(view: View) -> pd.DataFrame:
    """Return time, series and value in MiB."""
    return _build_frame(("used", line, 1 / MEBIBYTE) for line in view.series.get(REDIS_MEMORY, ()))


def _build_frame(lines: Iterable[tuple[str, Series, float]]) -> pd.DataFrame:
    """Return time, series and value; a row without a value ends a line before a gap."""
    found = list(lines)
    step = _find_step(moment for _, line, _ in found for moment, _ in line.points)
    rows = [
        (moment, name, None if value is None else value * factor)
        for name, line, factor in found
        for moment, value in _break_at_gaps(line, step)
    ]
    frame = pd.DataFrame(rows, columns=["time", "series", "value"])
    return frame.assign(time=pd.to_datetime(frame["time"], utc=True), value=frame["value"].astype(float))


def _find_step(moments: Iterable[datetime]) -> timedelta:
    """Return how far apart moments mostly are; zero for less than two of them."""
    distances = sorted(later - earlier for earlier, later in pairwise(sorted(set(moments))))
    return distances[len(distances) // 2] if distances else timedelta(0)


def _break_at_gaps(line: Series, step: timedelta) -> Iterator[tuple[datetime, float | None]]:
    for (moment, value), (following, _) in pairwise(line.points):
        yield moment, value
        if following - moment > GAP_STEPS * step:
            yield moment + step, None
    yield from line.points[-1:]


def describe_memory(scrape: Scrape) -> str:
    """Write how much of its memory Redis uses; empty when it is not known."""
    used = scrape.find("echo_redis_memory_used_bytes")
    if used is None:
        return ""
    limit = scrape.total("echo_redis_memory_max_bytes")
    evicted = scrape.total("echo_redis_evicted_keys_total")
    of_limit = f" of {limit / MEBIBYTE:,.0f} MiB ({used / limit:.0%})" if limit else " without a limit"
    return f"{used / MEBIBYTE:,.1f} MiB{of_limit}, {evicted:,.0f} keys evicted since it started."


def build_operations_frame(values: dict[Query, Values]) -> pd.DataFrame:
    """Return operations with traffic, busiest first: per second, errors per second, quantiles in ms."""
    calls = values.get(OPERATION_CALLS, {})
    errors = values.get(OPERATION_ERRORS, {})
    rows = [
        {
            "operation": key[0],
            "calls": rate,
            "errors": errors.get(key, 0.0),
            **{name: _read_ms(values, query, key) for name, query in _NAMED_LATENCY},
        }
        for key, rate in sorted(calls.items(), key=lambda item: (-item[1], item[0]))
        if rate > 0
    ]
    return pd.DataFrame(rows, columns=["operation", "calls", "errors", *QUANTILES])


_NAMED_LATENCY = tuple(zip(QUANTILES, OPERATION_LATENCY, strict=True))


def _read_ms(values: dict[Query, Values], query: Query, key: tuple[str, ...]) -> float | None:
    seconds = values.get(query, {}).get(key)
    return None if seconds is None else seconds * 1000


def build_statements_frame(statements: Sequence[StatementFigures]) -> pd.DataFrame:
    """Return statements that took most time in all; the text is one line."""
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


def build_tables_frame(tables: Iterable[TableFigures]) -> pd.DataFrame:
    """Return tables, largest first, sizes in MiB."""
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


def build_indexes_frame(indexes: Iterable[UnusedIndex]) -> pd.DataFrame:
    """Return indexes that no query used, as they came, sizes in MiB."""
    rows = [
        {"index": item.index, "table": item.table, "size": item.size_bytes / MEBIBYTE} for item in indexes
    ]
    return pd.DataFrame(rows, columns=["index", "table", "size"])


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms"
