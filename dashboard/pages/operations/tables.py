"""The health cards and the tables of the Operations page. All functions but `show_listing` are pure.

Owns the limits at which a card changes its colour, and the columns of each table: label, format and value.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec
import pandas as pd
import streamlit as st

from core.metrics.scrape import Scrape
from dashboard.elements import build_count_column, show_table
from dashboard.formats import format_duration, format_share
from dashboard.monitoring.alerts import Alert
from dashboard.monitoring.queries import (
    CACHE_BYPASSES,
    OPERATION_CALLS,
    OPERATION_ERRORS,
    OPERATION_LATENCY,
    Query,
    Values,
)
from dashboard.pages.operations.advice import ADVICE, Topic, build_advice, build_rule_link

State = Literal["good", "warning", "bad", "unknown"]
MEBIBYTE = 1024 * 1024
QUANTILES = ("p50", "p95", "p99")
STATEMENT_LETTERS = 300
COLLECTORS_NAMED = 2
REASON_HIDDEN = "operators see the reason"
TEXT, NUMBER = st.column_config.TextColumn, st.column_config.NumberColumn


class HealthCard(msgspec.Struct, frozen=True):
    """A card with the health of a server, cache or process.

    `section` is an anchor of the Troubleshooting page.
    """

    label: str
    meaning: str
    value: str
    state: State
    detail: str
    section: str


_MEANINGS = {
    "Stack": "The worst of all parts: healthy, degraded (it answers, but a part is missing) or unhealthy.",
    "PostgreSQL": "Whether the database answers a health check, and how long the check took.",
    "Redis": "Whether the shared cache answers a health check and is used.",
    "Migrations": "Changes of the schema that are applied to the database, and those that are pending.",
    "Connections in use": "Connections to PostgreSQL that are checked out, of all that the pools allow.",
    "Replicas": "Replicas that every process reads from, of all replicas.",
    "Processes": "Processes of the stack that write metrics now, by role.",
}


def build_cards(scrape: Scrape, reasons: Mapping[str, str], *, shows_reasons: bool) -> tuple[HealthCard, ...]:
    """Return the health cards for a scrape, which can be of all processes or of this process only.

    `reasons` has the reason for each server with a problem. With `shows_reasons=False`, the cards do not show
    these reasons. A part of the stack without metrics in the scrape has the state unknown.
    """
    if not shows_reasons:
        reasons = dict.fromkeys(reasons, REASON_HIDDEN)
    cards = [
        _build_stack(scrape),
        _build_service(scrape, reasons, "database", "PostgreSQL", "health"),
        _build_redis(scrape, reasons),
        _build_migrations(scrape),
        _build_pool(scrape),
    ]
    if "echo_db_replica_out" in scrape:
        cards.append(_build_replicas(scrape))
    # only a scrape of the exporter has metrics of the other processes
    if "echo_scrape_collector_success" in scrape:
        cards.append(_build_processes(scrape))
    return tuple(cards)


def _card(label: str, value: str, state: State, detail: str, topic: Topic) -> HealthCard:
    return HealthCard(label, _MEANINGS[label], value, state, detail, ADVICE[topic].section)


def _build_stack(scrape: Scrape) -> HealthCard:
    states: dict[str | None, State] = {"healthy": "good", "degraded": "warning", "unhealthy": "bad"}
    status = scrape.find_status()
    collectors = scrape.sum_by("echo_scrape_collector_success", "collector")
    failing = sorted(name for (name,), works in collectors.items() if not works)
    names = ", ".join(failing) if len(failing) <= COLLECTORS_NAMED else f"{len(failing)} of {len(collectors)}"
    detail = f"collectors failing: {names}" if failing else "all collectors work"
    return _card(
        "Stack",
        (status or "unknown").capitalize(),
        states.get(status, "unknown"),
        detail if collectors else "own check of this dashboard",
        "health",
    )


def _build_service(
    scrape: Scrape, reasons: Mapping[str, str], service: str, label: str, topic: Topic
) -> HealthCard:
    up = scrape.find("echo_service_up", service=service)
    if up is None:
        return _card(label, "Unknown", "unknown", "no check published", topic)
    milliseconds = scrape.total("echo_service_check_duration_seconds", service=service) * 1000
    reason = reasons.get(service)
    value, state = ("Down", "bad") if not up else ("Limited", "warning") if reason else ("Up", "good")
    return _card(label, value, state, reason or f"check took {milliseconds:,.1f} ms", topic)  # type: ignore[arg-type]


def _build_redis(scrape: Scrape, reasons: Mapping[str, str]) -> HealthCard:
    if scrape.find("echo_service_up", service="redis") is None and "echo_service_up" in scrape:
        return _card("Redis", "Disabled", "good", "the cache is switched off", "redis")
    card = _build_service(scrape, reasons, "redis", "Redis", "redis")
    if card.state == "good" and scrape.total("echo_cache_breaker_open"):
        return _card("Redis", "Bypassed", "warning", "a circuit breaker is open", "redis")
    topology = describe_topology(scrape)
    return msgspec.structs.replace(card, detail=f"{card.detail} · {topology}") if topology else card


def describe_topology(scrape: Scrape) -> str:
    """Write the topology of Redis and how often its primary has changed; empty for a single server."""
    names = scrape.sum_by("echo_cache_topology", "topology")
    moving = sorted(name for (name,), number in names.items() if number and name != "single")
    if not moving:
        return ""
    changes = scrape.total("echo_cache_primary_changes_total")
    return f"{', '.join(moving)}, changes of the primary: {changes:,.0f}"


def _build_migrations(scrape: Scrape) -> HealthCard:
    pending, applied = scrape.find("echo_migrations_pending"), scrape.find("echo_migrations_applied")
    if pending is None:
        return _card("Migrations", "Unknown", "unknown", "database not checked", "migrations")
    value, state = (f"{pending:.0f} pending", "warning") if pending else ("Up to date", "good")
    return _card("Migrations", value, state, f"{applied or 0:.0f} applied", "migrations")  # type: ignore[arg-type]


def _build_pool(scrape: Scrape) -> HealthCard:
    limits = scrape.sum_by("echo_db_pool_max_connections", "role")
    if not limits:
        return _card("Connections in use", "Unknown", "unknown", "no pool published", "pool")
    used = scrape.sum_by("echo_db_pool_connections", "role", state="used")
    waiting = scrape.total("echo_db_pool_pending_requests")
    full = sorted(role for (role,), most in limits.items() if 0 < most <= used.get((role,), 0.0))
    roles = f"all used: {', '.join(full)}" if full else ", ".join(sorted(role for (role,) in limits))
    return _card(
        "Connections in use",
        f"{sum(used.values()):.0f} of {sum(limits.values()):.0f}",
        "warning" if waiting or full else "good",
        f"{waiting:.0f} requests waiting · {roles}",
        "pool",
    )


def _build_replicas(scrape: Scrape) -> HealthCard:
    out = scrape.sum_by("echo_db_replica_out", "replica")
    left_out = sorted(replica for (replica,), processes in out.items() if processes)
    lag_seconds = max(scrape.sum_by("echo_db_replica_lag_seconds", "replica", "role").values(), default=0.0)
    detail = f"left out by a process: {', '.join(left_out)} · " if left_out else ""
    return _card(
        "Replicas",
        f"{len(out) - len(left_out)} of {len(out)}",
        "warning" if left_out else "good",
        f"{detail}at most {lag_seconds:.1f} s behind",
        "replicas",
    )


def _build_processes(scrape: Scrape) -> HealthCard:
    writers = scrape.sum_by("echo_metrics_writers", "role")
    roles = ", ".join(f"{role} {number:.0f}" for (role,), number in sorted(writers.items()) if number)
    count = sum(writers.values())
    state: State = "good" if count else "unknown"
    return _card("Processes", f"{count:.0f}", state, roles or "no process writes metrics", "health")


def describe_memory(scrape: Scrape) -> str:
    """Write the memory that Redis uses, its limit, and how many keys Redis evicted; empty if unknown."""
    used = scrape.find("echo_redis_memory_used_bytes")
    if used is None:
        return ""
    limit = scrape.total("echo_redis_memory_max_bytes")
    evicted = scrape.total("echo_redis_evicted_keys_total")
    of_limit = (
        f" of {limit / MEBIBYTE:,.0f} MiB ({format_share(used, limit)})" if limit else " without a limit"
    )
    return f"Now {used / MEBIBYTE:,.1f} MiB{of_limit}; {evicted:,.0f} keys evicted since Redis started."


def describe_bypasses(values: Mapping[Query, Values]) -> str:
    """Write how many reads per second bypass Redis; empty if none does."""
    rate = sum(values.get(CACHE_BYPASSES, {}).values())
    return f"{rate:,.2f} reads/s bypassed Redis; they are not part of the ratio." if rate > 0 else ""


class Column(NamedTuple):
    """A column of a listing: Streamlit's column, and a function that returns the cell for an item."""

    config: Any
    read: Callable[[Any], Any]


class Listing(NamedTuple):
    """A table of the page. `alt` describes it to screen readers."""

    alt: str
    columns: Mapping[str, Column]
    on_phone: tuple[str, ...] | None = None
    on_tablet: tuple[str, ...] | None = None

    def build(self, items: Iterable[Any]) -> pd.DataFrame:
        """Return a data frame with one row per item. Its column names are the labels."""
        rows = [[column.read(item) for column in self.columns.values()] for item in items]
        return pd.DataFrame(rows, columns=list(self.columns))


class OperationRow(NamedTuple):
    """An operation of the service: calls and errors per second, latency in ms for each of QUANTILES."""

    name: str
    calls: float
    errors: float
    milliseconds: tuple[float | None, ...]


def list_operations(values: Mapping[Query, Values]) -> Iterator[OperationRow]:
    """Yield the operations that used the database recently, most calls first."""
    calls, errors = values.get(OPERATION_CALLS, {}), values.get(OPERATION_ERRORS, {})
    for key, rate in sorted(calls.items(), key=lambda item: (-item[1], item[0])):
        if rate > 0:
            seconds = [values.get(query, {}).get(key) for query in OPERATION_LATENCY]
            quantiles = tuple(None if value is None else value * 1000 for value in seconds)
            yield OperationRow(key[0], rate, errors.get(key, 0.0), quantiles)


def _mebibytes(name: str) -> Column:
    return Column(NUMBER(format="%.2f"), lambda item: getattr(item, name) / MEBIBYTE)


def _milliseconds(index: int) -> Column:
    return Column(NUMBER(format="%.1f"), lambda item: item.milliseconds[index])


def _moment(read: Callable[[Any], datetime | None]) -> Column:
    return Column(st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm:ss", timezone="UTC"), read)


OPERATIONS = Listing(
    "Operations with calls and errors per second and time in the database",
    {
        "Operation": Column(TEXT(), lambda item: item.name),
        "Calls/s": Column(NUMBER(format="%.2f"), lambda item: item.calls),
        "Errors/s": Column(NUMBER(format="%.2f"), lambda item: item.errors),
        **{f"{name} (ms)": _milliseconds(index) for index, name in enumerate(QUANTILES)},
    },
    on_phone=("Operation", "Errors/s", "p95 (ms)"),
)
ALERTS = Listing(
    "Active alerts",
    {
        "State": Column(TEXT(), lambda item: item.state.capitalize()),
        "Severity": Column(TEXT(), lambda item: item.severity.capitalize()),
        "Since (UTC)": _moment(lambda item: item.since),
        "What": Column(
            TEXT(width="large"), lambda item: ": ".join(filter(None, (item.summary, item.reason)))
        ),
        "Alert": Column(TEXT(), lambda item: item.rule),
        "What helps": Column(
            st.column_config.LinkColumn(display_text="Troubleshooting"),
            lambda item: build_rule_link(item.rule),
        ),
    },
    on_phone=("State", "Alert", "What helps"),
    on_tablet=("State", "What", "What helps"),
)
INCIDENTS = Listing(
    "Incidents that this dashboard has seen",
    {
        "Began (UTC)": _moment(lambda item: item.began_at),
        "Ended (UTC)": _moment(lambda item: item.ended_at),
        "Lasted": Column(
            TEXT(), lambda item: "not over" if item.seconds is None else format_duration(item.seconds)
        ),
        "What": Column(TEXT(), lambda item: item.problem.name),
        "Reason": Column(TEXT(width="large"), lambda item: item.problem.reason),
    },
    on_phone=("Began (UTC)", "Lasted", "What"),
    on_tablet=("Began (UTC)", "Ended (UTC)", "Lasted", "What"),
)
STATEMENTS = Listing(
    "Statements with the most total time",
    {
        "Operation": Column(TEXT(), lambda item: item.operation),
        "Total (s)": Column(NUMBER(format="%.2f"), lambda item: item.total_seconds),
        "Mean (ms)": Column(NUMBER(format="%.2f"), lambda item: item.mean_seconds * 1000),
        "Calls": Column(build_count_column(), lambda item: item.calls),
        "Rows/call": Column(
            NUMBER(format="%.1f"), lambda item: item.rows / item.calls if item.calls else 0.0
        ),
        "Statement": Column(
            TEXT(width="large"), lambda item: " ".join(item.statement.split())[:STATEMENT_LETTERS]
        ),
    },
    on_phone=("Operation", "Total (s)", "Mean (ms)"),
    on_tablet=("Operation", "Total (s)", "Mean (ms)", "Calls", "Rows/call"),
)
SIZES = Listing(
    "Size of each table and its indexes",
    {
        "Table": Column(TEXT(), lambda item: item.table),
        "Table (MiB)": _mebibytes("size_bytes"),
        "Indexes (MiB)": _mebibytes("index_size_bytes"),
        "Rows, about": Column(build_count_column(), lambda item: item.rows),
    },
    on_phone=("Table", "Table (MiB)", "Rows, about"),
)
INDEXES = Listing(
    "Indexes that no query has used",
    {
        "Index": Column(TEXT(), lambda item: item.index),
        "Table": Column(TEXT(), lambda item: item.table),
        "Size (MiB)": _mebibytes("size_bytes"),
    },
    on_phone=("Index", "Size (MiB)"),
)
EVENTS = Listing(
    "The newest actions of people",
    {
        "When (UTC)": _moment(lambda item: item.created_at),
        "Who": Column(TEXT(), lambda item: item.actor),
        "What": Column(TEXT(), lambda item: f"{item.action.replace('_', ' ')}: {item.target}"),
        "Outcome": Column(
            TEXT(width="large"),
            lambda item: item.outcome if item.detail is None else f"{item.outcome}: {item.detail}",
        ),
    },
    on_phone=("When (UTC)", "What"),
    on_tablet=("When (UTC)", "Who", "What"),
)


def show_listing(
    listing: Listing, items: Iterable[Any], *, empty: str, title: str = "", advice: Topic | None = None
) -> None:
    """Show a table below its title and above its advice.

    Without items, show the text `empty` in its place.
    """
    if title:
        st.header(title, anchor=False)
    frame = listing.build(items)
    if frame.empty:
        st.caption(empty)
    else:
        show_table(
            frame,
            {label: column.config for label, column in listing.columns.items()},
            alt=listing.alt,
            on_phone=listing.on_phone,
            on_tablet=listing.on_tablet,
        )
    if advice:
        st.caption(build_advice(advice))


def hide_reasons(items: Sequence[Any]) -> list[Any]:
    """Return copies of alerts or incidents without the error messages of servers."""
    return [
        msgspec.structs.replace(item, reason="")
        if isinstance(item, Alert)
        else msgspec.structs.replace(
            item, problem=msgspec.structs.replace(item.problem, reason=REASON_HIDDEN)
        )
        for item in items
    ]
