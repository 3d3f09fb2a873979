"""Operations: the health, alerts, metrics and database statistics of the stack, for the person on call.

Run by Streamlit as a script for every view. Metrics refresh often, from one snapshot for all sessions;
the database's own statistics cost it more and refresh rarely. Pausing stops both.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

import pandas as pd
import streamlit as st

from core import EnhancedDatabaseService
from core.errors import EchoMarketsError
from dashboard import filters, live, runtime, states
from dashboard.charts import Spec
from dashboard.elements import CARD_PIXELS, show_table
from dashboard.formats import escape_markdown, format_as_of
from dashboard.pages.operations import charts, tables
from dashboard.pages.operations.actions import show_operator_actions
from dashboard.pages.operations.alerts import Alert, Topic, build_advice, build_link
from dashboard.pages.operations.tables import HealthCard
from dashboard.pages.operations.telemetry import REFRESH_SECONDS, Snapshot, Telemetry, get_telemetry

SPANS = {"15 min": 900, "1 h": 3600, "6 h": 21_600, "24 h": 86_400}
DEFAULT_SPAN = "1 h"
DATABASE_SECONDS = 60
"""The server adds up sizes and statements at each read; they change slowly."""

OPERATIONS_SHOWN = STATEMENTS_SHOWN = 15
COLOURS: dict[str, str] = {"good": "green", "warning": "orange", "bad": "red", "unknown": "gray"}
SEVERITIES = {"critical": "red", "page": "red", "warning": "orange"}
SOURCES = {
    "prometheus": "from Prometheus",
    "exporter": "from the exporter",
    "none": "own check of this dashboard",
}
NUMBER, TEXT = st.column_config.NumberColumn, st.column_config.TextColumn


def show_operations() -> None:
    """Show the page; its parts refresh by themselves unless paused."""
    service, telemetry = runtime.get_service(), get_telemetry()
    live.show_heading("Operations")
    span_seconds, is_live = _select_span(telemetry), live.is_live()
    metrics = st.fragment(_show_metrics, run_every=REFRESH_SECONDS if is_live else None)
    metrics(service, telemetry, span_seconds, is_live=is_live)
    st.fragment(_show_database, run_every=DATABASE_SECONDS if is_live else None)(service)
    states.run_part(lambda: show_operator_actions(service), is_live=False)


def _select_span(telemetry: Telemetry) -> int:
    """Show the time spans if Prometheus offers them, and return the selected one in seconds."""
    if not telemetry.has_prometheus:
        st.caption("Charts begin when this page is first opened. Set `PROMETHEUS_URL` to see earlier values.")
        return 0
    span = filters.select_segment(
        "Time shown", list(SPANS), default=DEFAULT_SPAN, key="span", noun="time span"
    )
    return SPANS[span]


def _show_metrics(
    service: EnhancedDatabaseService, telemetry: Telemetry, span_seconds: int, *, is_live: bool
) -> None:
    snapshot = telemetry.read(span_seconds)
    pace = f"refreshes every {REFRESH_SECONDS} s" if is_live else "paused"
    st.caption(f"{format_as_of(snapshot.taken_at)} · {SOURCES[snapshot.source]} · {pace}")
    for warning in snapshot.warnings:
        st.warning(escape_markdown(warning))
    if snapshot.scrape is None:
        _show_health(tables.build_own_cards(service.health()))
        _show_no_metrics()
        return
    _show_health(tables.build_cards(snapshot.scrape))
    _show_alerts(snapshot)
    _show_charts(snapshot)
    _show_operations_table(snapshot)


def _show_no_metrics() -> None:
    states.show_empty(
        "no-metrics",
        "No metrics",
        "The exporter does not answer, so charts and alerts are missing; they come back with it. The health "
        "above is this dashboard's own check. See what runs, and start what does not with `make up`:",
        command="make status",
        note=f"Where the exporter runs elsewhere, set `EXPORTER_URL`. {build_advice('health')}",
    )


def _show_health(cards: Iterable[HealthCard]) -> None:
    cards = tuple(cards)
    with st.grid(len(cards), min_column_width=CARD_PIXELS):
        for card in cards:
            with st.container(border=True, gap="xxsmall", height="stretch"):
                st.caption(card.label)
                st.badge(card.value, color=COLOURS[card.state])  # type: ignore[arg-type]  # one of its names
                more = "" if card.state == "good" else f" [What helps]({build_link(card.topic)})"
                st.caption(f"{escape_markdown(card.detail)}{more}")


def _show_alerts(snapshot: Snapshot) -> None:
    st.subheader("Active alerts", anchor=False)
    is_evaluated = snapshot.source == "prometheus"
    if not snapshot.alerts:
        st.caption("None." if is_evaluated else "None: all present values are within their limits.")
    for alert in snapshot.alerts:
        _show_alert(alert)
    note = (
        ""
        if is_evaluated
        else "Without Prometheus: present values against the alert limits, without waiting times. "
    )
    st.caption(f"{note}{build_advice('alerts')}")


def _show_alert(alert: Alert) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        colour = SEVERITIES.get(alert.severity, "orange") if alert.state != "pending" else "gray"
        st.badge(f"{alert.severity}, {alert.state}", color=colour)  # type: ignore[arg-type]  # one of its names
        since = f" · since {alert.since:%H:%M:%S} UTC" if alert.since else ""
        text = f"{alert.name}: {alert.summary}" if alert.summary else alert.name
        st.markdown(f"{escape_markdown(text)}{since} · [What helps]({build_link(alert.topic)})")


def _show_charts(snapshot: Snapshot) -> None:
    left, right = st.columns(2, gap="medium")
    with left:
        latency = charts.build_latency_frame(snapshot)
        _show_chart("Operation latency", latency, charts.build_latency_chart(), "latency")
        hits = charts.build_hit_frame(snapshot)
        _show_chart("Hit ratio", hits, charts.build_hit_chart(hits["series"].nunique()), "cache")
    with right:
        pools = charts.build_pool_frame(snapshot)
        pool_chart = charts.build_pool_chart(pools["value"].max(), pools["series"])
        _show_chart("Connections by role", pools, pool_chart, "pool", "Dashed: pending requests.")
        memory = charts.build_memory_frame(snapshot)
        note = tables.describe_memory(snapshot.scrape) if snapshot.scrape else ""
        _show_chart("Redis memory", memory, charts.build_memory_chart(), "redis", note)


def _show_chart(title: str, frame: pd.DataFrame, spec: Spec, topic: Topic, note: str = "") -> None:
    st.subheader(title, anchor=False)
    if frame.empty:
        st.caption(f"Collecting: first values in about {2 * REFRESH_SECONDS} s.")
    else:
        st.vega_lite_chart(frame, spec, width="stretch", key=f"chart-{topic}", alt=f"{title} over time")
    st.caption(f"{note} {build_advice(topic)}".strip())


def _show_operations_table(snapshot: Snapshot) -> None:
    st.subheader("Operations in the last minutes", anchor=False)
    table = tables.build_operations_table(snapshot.values)
    if table.empty:
        st.caption("No operation used the database, or only one snapshot exists so far.")
        return
    show_table(
        table,
        {
            "operation": TEXT("Operation"),
            "calls": NUMBER("Calls/s", format="%.2f"),
            "errors": NUMBER("Errors/s", format="%.2f"),
            **{name: NUMBER(f"{name} (ms)", format="%.1f") for name in charts.QUANTILES},
        },
        alt="Operations with calls and errors per second and latency",
        visible_rows=OPERATIONS_SHOWN,
    )
    st.caption(build_advice("latency"))


def _show_database(service: EnhancedDatabaseService) -> None:
    st.divider()
    st.header("Database", anchor=False)
    try:
        statements = service.list_slowest_statements(STATEMENTS_SHOWN)
        sizes = tables.build_sizes_table(service.list_table_sizes())
        indexes = tables.build_indexes_table(service.list_unused_indexes())
    except EchoMarketsError:
        with st.container(border=True, key="state-no-statistics"):
            st.markdown(
                "The database does not answer, so sizes and statements are missing. They come back with it."
            )
            st.caption(build_advice("health"))
        return
    st.caption(f"{format_as_of(datetime.now(UTC))} · every {DATABASE_SECONDS} s while live")
    _show_statements(None if statements is None else tables.build_statements_table(statements))
    left, right = st.columns(2, gap="medium")
    with left:
        _show_sizes(sizes)
    with right:
        _show_unused_indexes(indexes)


def _show_statements(table: pd.DataFrame | None) -> None:
    st.subheader("Slowest statements", anchor=False)
    if table is None:
        st.caption("The server keeps no statistics of statements: `pg_stat_statements` is not loaded.")
    elif table.empty:
        st.caption("No statement of the service was counted yet.")
    else:
        show_table(
            table,
            {
                "operation": TEXT("Operation"),
                "total": NUMBER("Total (s)", format="%.2f"),
                "mean": NUMBER("Mean (ms)", format="%.2f"),
                "calls": NUMBER("Calls", format="%,d"),
                "rows": NUMBER("Rows/call", format="%.1f"),
                "statement": TEXT("Statement", width="large"),
            },
            alt="Statements with the most total time",
        )
    st.caption(build_advice("statements"))


def _show_sizes(table: pd.DataFrame) -> None:
    st.subheader("Table and index sizes", anchor=False)
    show_table(
        table,
        {
            "table": TEXT("Table"),
            "size": NUMBER("Table (MiB)", format="%.2f"),
            "indexes": NUMBER("Indexes (MiB)", format="%.2f"),
            "rows": NUMBER("Rows, about", format="%,d"),
        },
        alt="Size of each table and its indexes",
        visible_rows=len(table),
    )
    st.caption(build_advice("size"))


def _show_unused_indexes(table: pd.DataFrame) -> None:
    st.subheader("Unused indexes", anchor=False)
    if table.empty:
        st.caption("Every index has been used.")
    else:
        show_table(
            table,
            {
                "index": TEXT("Index"),
                "table": TEXT("Table"),
                "size": NUMBER("Size (MiB)", format="%.2f"),
            },
            alt="Indexes that no query has used",
            visible_rows=len(table),
        )
    st.caption(
        "Not used since the statistics were reset; each one slows down every write. A new stack has not run "
        f"all queries yet. [More]({build_link('size')})"
    )


show_operations()
