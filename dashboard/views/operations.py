"""Operations: what every process of the stack does, for whoever is on call.

Owns the page's composition. The fleet's figures are one view that all sessions share, shown
in a fragment that runs again by itself; the database's own statistics cost it more and come
in another one, less often. Pausing stops both.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

import pandas as pd
import streamlit as st

from core import EnhancedDatabaseService
from core.errors import EchoMarketsError
from dashboard import live, parameters, runtime, states
from dashboard.charts import Spec
from dashboard.formats import escape_markdown, format_as_of
from dashboard.operations import charts, frames
from dashboard.operations.advice import Topic, build_advice, build_link
from dashboard.operations.current import get_telemetry
from dashboard.operations.frames import Card
from dashboard.operations.prometheus import Alert
from dashboard.operations.telemetry import REFRESH_SECONDS, Telemetry, View
from dashboard.operator_actions import show_operator_actions

SPANS = {"15 min": 900, "1 h": 3600, "6 h": 21_600, "24 h": 86_400}
DEFAULT_SPAN = "1 h"
DATABASE_SECONDS = 60
"""The server adds up sizes and statements for each look; they change slowly."""

CARD_PIXELS = 155
STATEMENTS_SHOWN = 15
COLOURS: dict[str, str] = {"good": "green", "warning": "orange", "bad": "red", "unknown": "gray"}
SEVERITIES = {"critical": "red", "page": "red", "warning": "orange"}
SOURCES = {
    "prometheus": "from Prometheus",
    "exporter": "from the exporter",
    "none": "own check of this dashboard",
}
NUMBER = st.column_config.NumberColumn


def show_operations() -> None:
    """Show the page; its two parts run again by themselves unless paused."""
    service, telemetry = runtime.get_service(), get_telemetry()
    live.show_heading("Operations")
    span_seconds, is_live = choose_span(telemetry), live.is_live()
    fleet = st.fragment(show_fleet, run_every=REFRESH_SECONDS if is_live else None)
    fleet(service, telemetry, span_seconds, is_live=is_live)
    st.fragment(show_database, run_every=DATABASE_SECONDS if is_live else None)(service)
    states.run_part(lambda: show_operator_actions(service), retry_seconds=None)


def choose_span(telemetry: Telemetry) -> int:
    """Show which time charts cover, where there is a choice, and return it in seconds."""
    if not telemetry.has_prometheus:
        st.caption("Charts begin when somebody opens this page. Set `PROMETHEUS_URL` for a longer past.")
        return 0
    unknown = parameters.find_unknown("span", SPANS)
    span = st.segmented_control(
        "Time shown", list(SPANS), default=DEFAULT_SPAN, required=True, key="span", bind="query-params"
    )
    if unknown:
        parameters.show_unknown("time", unknown, instead=span)
    return SPANS[span]


def show_fleet(
    service: EnhancedDatabaseService, telemetry: Telemetry, span_seconds: int, *, is_live: bool
) -> None:
    """Show everything that comes from metrics, and when it was read."""
    view = telemetry.read(span_seconds)
    pace = f"refreshes every {REFRESH_SECONDS} s" if is_live else "paused"
    st.caption(f"{format_as_of(view.taken_at)} · {SOURCES[view.source]} · {pace}")
    for trouble in view.trouble:
        st.warning(escape_markdown(trouble))
    if view.scrape is None:
        show_strip(frames.build_own_cards(service.health()))
        show_silence()
        return
    show_strip(frames.build_cards(view.scrape))
    show_alerts(view)
    show_charts(view)
    show_operation_table(view)


def show_silence() -> None:
    """Say that there are no metrics, and what brings them back."""
    with st.container(border=True, key="state-no-metrics"):
        st.subheader("No metrics", anchor=False)
        st.markdown(
            "Nobody publishes the fleet's figures, so charts and alerts are missing. "
            "The strip above is this dashboard's own check; charts go on when the exporter answers."
        )
        st.caption(
            "See what runs, and start what does not with `make up`. In other places, set `EXPORTER_URL`."
        )
        st.code("make status", language="bash")
        st.caption(build_advice("health"))


def show_strip(cards: Iterable[Card]) -> None:
    """Show the health strip: a name, a badge and a remark each, with the way to what helps."""
    cards = tuple(cards)
    with st.grid(len(cards), min_column_width=CARD_PIXELS):
        for card in cards:
            with st.container(border=True, gap="xxsmall", height="stretch"):
                st.caption(card.label)
                st.badge(card.value, color=COLOURS[card.state])  # type: ignore[arg-type]  # one of its names
                more = "" if card.state == "good" else f" [What helps]({build_link(card.topic)})"
                st.caption(f"{escape_markdown(card.detail)}{more}")


def show_alerts(view: View) -> None:
    """Show what runs, or that nothing does, and who says so."""
    st.subheader("Running alerts", anchor=False)
    is_evaluated = view.source == "prometheus"
    if not view.alerts:
        st.caption("None." if is_evaluated else "None: the figures of this moment are within their limits.")
    for alert in view.alerts:
        show_alert(alert)
    note = "" if is_evaluated else "Compared with the alerts' limits here, without Prometheus's patience. "
    st.caption(f"{note}{build_advice('alerts')}")


def show_alert(alert: Alert) -> None:
    """Show one alert with its severity, age and the way to what helps."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        colour = SEVERITIES.get(alert.severity, "orange") if alert.state != "pending" else "gray"
        st.badge(f"{alert.severity}, {alert.state}", color=colour)  # type: ignore[arg-type]  # one of its names
        since = f" · since {alert.since:%H:%M:%S} UTC" if alert.since else ""
        text = f"{alert.name}: {alert.summary}" if alert.summary else alert.name
        st.markdown(f"{escape_markdown(text)}{since} · [What helps]({build_link(alert.topic)})")


def show_charts(view: View) -> None:
    """Show latency, pools, hit ratio and memory over time."""
    left, right = st.columns(2, gap="medium")
    hits = frames.build_hit_frame(view)
    with left:
        show_chart(
            "Operation latency", frames.build_latency_frame(view), charts.build_latency_chart(), "latency"
        )
        show_chart("Hit ratio", hits, charts.build_hit_chart(hits["series"].nunique()), "cache")
    with right:
        pools = frames.build_pool_frame(view)
        show_chart(
            "Connections by role",
            pools,
            charts.build_pool_chart(pools["value"].max(), pools["series"]),
            "pool",
            "Dashed: waiting.",
        )
        memory = frames.describe_memory(view.scrape) if view.scrape else ""
        show_chart(
            "Redis memory", frames.build_memory_frame(view), charts.build_memory_chart(), "redis", memory
        )


def show_chart(title: str, frame: pd.DataFrame, spec: Spec, topic: Topic, remark: str = "") -> None:
    """Show a chart with its advice, or what is missing for it."""
    st.subheader(title, anchor=False)
    if frame.empty:
        st.caption("No points yet: a rate needs two looks, and a process that does something.")
    else:
        st.vega_lite_chart(frame, spec, width="stretch", key=f"chart-{topic}", alt=f"{title} over time")
    st.caption(f"{remark} {build_advice(topic)}".strip())


def show_operation_table(view: View) -> None:
    """Show each operation's traffic and latency over the last minutes."""
    st.subheader("Operations of the last minutes", anchor=False)
    frame = frames.build_operations_frame(view.values)
    if frame.empty:
        st.caption("No operation reached the database, or there was one look only.")
        return
    st.dataframe(
        frame,
        hide_index=True,
        height="content" if len(frame) <= STATEMENTS_SHOWN else "auto",
        alt="Operations with calls and errors per second and latency",
        column_config={
            "operation": st.column_config.TextColumn("Operation"),
            "calls": NUMBER("Calls/s", format="%.2f"),
            "errors": NUMBER("Errors/s", format="%.2f"),
            **{name: NUMBER(f"{name} (ms)", format="%.1f") for name in frames.QUANTILES},
        },
    )
    st.caption(build_advice("latency"))


def show_database(service: EnhancedDatabaseService) -> None:
    """Show the database's own statistics, or that it cannot be asked."""
    st.divider()
    st.header("Database", anchor=False)
    try:
        statements = service.list_slowest_statements(STATEMENTS_SHOWN)
        tables = frames.build_tables_frame(service.list_table_sizes())
        indexes = frames.build_indexes_frame(service.list_unused_indexes())
    except EchoMarketsError:
        with st.container(border=True, key="state-no-statistics"):
            st.markdown(
                "The database cannot be asked, so sizes and statements are missing. They come back with it."
            )
            st.caption(build_advice("health"))
        return
    st.caption(f"{format_as_of(datetime.now(UTC))}, every {DATABASE_SECONDS} s while live.")
    show_statements(None if statements is None else frames.build_statements_frame(statements))
    left, right = st.columns(2, gap="medium")
    with left:
        show_sizes(tables)
    with right:
        show_unused(indexes)


def show_statements(frame: pd.DataFrame | None) -> None:
    """Show the statements that took most time, with placeholders for their values."""
    st.subheader("Slowest statements", anchor=False)
    if frame is None:
        st.caption("The server keeps no statistics of statements: `pg_stat_statements` is not loaded.")
    elif frame.empty:
        st.caption("No statement of the service was counted yet.")
    else:
        st.dataframe(
            frame,
            hide_index=True,
            alt="Statements that took most time in all",
            column_config={
                "operation": st.column_config.TextColumn("Operation"),
                "total": NUMBER("Total (s)", format="%.2f"),
                "mean": NUMBER("Mean (ms)", format="%.2f"),
                "calls": NUMBER("Calls", format="%,d"),
                "rows": NUMBER("Rows/call", format="%.1f"),
                "statement": st.column_config.TextColumn("Statement", width="large"),
            },
        )
    st.caption(build_advice("statements"))


def show_sizes(frame: pd.DataFrame) -> None:
    """Show what tables and their indexes take on disk."""
    st.subheader("Table and index sizes", anchor=False)
    st.dataframe(
        frame,
        hide_index=True,
        height="content",
        alt="Size of each table and its indexes",
        column_config={
            "table": st.column_config.TextColumn("Table"),
            "size": NUMBER("Table (MiB)", format="%.2f"),
            "indexes": NUMBER("Indexes (MiB)", format="%.2f"),
            "rows": NUMBER("Rows, about", format="%,d"),
        },
    )
    st.caption(build_advice("size"))


def show_unused(frame: pd.DataFrame) -> None:
    """Show indexes that no query used since the server's statistics were reset."""
    st.subheader("Unused indexes", anchor=False)
    if frame.empty:
        st.caption("Every index has been used.")
    else:
        st.dataframe(
            frame,
            hide_index=True,
            height="content",
            alt="Indexes that no query used",
            column_config={
                "index": st.column_config.TextColumn("Index"),
                "table": st.column_config.TextColumn("Table"),
                "size": NUMBER("Size (MiB)", format="%.2f"),
            },
        )
    st.caption(
        "Not used since the statistics were reset; each costs every write. "
        f"A fresh stack has not asked everything yet. [More]({build_link('size')})"
    )


show_operations()
