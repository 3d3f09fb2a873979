"""The script of the Operations page: health, incidents, alerts, metrics and database statistics.

Health and metrics come from the sampler's last sample. The statistics of the database are expensive to
compute and are read once a minute. A paused page does not refresh these values.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial

import streamlit as st

from core import EnhancedDatabaseService
from core.records import StatementFigures, TableFigures, UnusedIndex
from dashboard import filters, live, runtime, states
from dashboard.elements import CARD_PIXELS
from dashboard.formats import escape_markdown, format_as_of, format_duration, format_minute
from dashboard.monitoring.queries import WINDOW_SECONDS
from dashboard.monitoring.sampler import SCRAPE_SECONDS, SampledMetrics, Sampler, StackSample, find_sampler
from dashboard.pages.operations import charts, data, tables
from dashboard.pages.operations.actions import show_operator_actions
from dashboard.pages.operations.advice import build_advice, build_link
from dashboard.pages.operations.tables import HealthCard
from dashboard.server import sign_in

SPANS = {"15 min": 900, "1 h": 3600, "6 h": 21_600, "24 h": 86_400}
DEFAULT_SPAN = "1 h"
REFRESH_SECONDS = int(SCRAPE_SECONDS)
DATABASE_SECONDS = 60
"""Time between two reads of the database statistics: they are expensive to compute and change slowly."""

STATEMENTS_SHOWN = 15
INCIDENTS_SHOWN = 20
COLOURS: dict[str, str] = {"good": "green", "warning": "orange", "bad": "red", "unknown": "gray"}


def show_operations() -> None:
    """Show the Operations page."""
    service, sampler = runtime.get_service(), find_sampler()
    live.show_heading("Operations")
    if sampler is None:
        st.caption("No health and metrics here: start the pages with `python -m dashboard`.")
    else:
        span_seconds = _select_span(sampler)
        live.show_live(partial(_show_metrics, service, sampler, span_seconds), seconds=REFRESH_SECONDS)
    live.show_live(partial(_show_database, service), seconds=DATABASE_SECONDS)
    states.run_part(partial(show_operator_actions, service), is_live=False)


def _select_span(sampler: Sampler) -> int:
    """Show the filter of time spans and return the selected span in seconds; 0 without Prometheus."""
    if sampler.prometheus is None:
        st.caption(
            f"Charts show the last hour, but nothing before {format_minute(sampler.started_at)} UTC, when "
            "this dashboard started. Set `PROMETHEUS_URL` to see more."
        )
        return 0
    span = filters.select_segment(
        "Time shown", list(SPANS), default=DEFAULT_SPAN, key="span", noun="time span"
    )
    return SPANS[span]


def _show_metrics(service: EnhancedDatabaseService, sampler: Sampler, span_seconds: int) -> None:
    sample = sampler.latest
    if sample is None:
        st.caption("The first health check is under way.")
        return
    visitor = sign_in.find_visitor()
    shows_reasons = visitor is not None and visitor.sees_reasons
    metrics, warnings = data.find_metrics(sample, sampler.prometheus, span_seconds)
    scrape, reasons = data.find_health(sample, metrics, service)
    source = "own check of this dashboard" if metrics is None else f"from {_name_source(metrics)}"
    st.caption(f"{format_as_of(scrape.taken_at)} · {source}")
    for warning in warnings:
        st.warning(escape_markdown(warning))
    _show_health(tables.build_cards(scrape, reasons, shows_reasons=shows_reasons))
    _show_incidents(sample, sampler, shows_reasons=shows_reasons)
    if metrics is None:
        _show_no_metrics()
        return
    _show_alerts(sample, shows_reasons=shows_reasons)
    now = datetime.now(UTC)
    age = (now - metrics.taken_at).total_seconds()
    if age > 3 * REFRESH_SECONDS:
        st.caption(f"The figures below are the last known ones, {format_duration(age)} old.")
    _show_charts(metrics, now)
    _show_operations_table(metrics)


def _name_source(metrics: SampledMetrics) -> str:
    return "Prometheus" if metrics.source == "prometheus" else "the exporter"


def _show_no_metrics() -> None:
    states.show_empty(
        "no-metrics",
        "No metrics",
        "The exporter has not answered since this dashboard started, so charts and alerts are missing; they "
        "come with its first answer. The health above is this dashboard's own check. See what runs, and "
        "start what does not with `make up`:",
        command="make status",
        note=f"Where the exporter runs elsewhere, set `EXPORTER_URL`. {build_advice('health')}",
    )


def _show_health(cards: Sequence[HealthCard]) -> None:
    with st.grid(len(cards), min_column_width=CARD_PIXELS):
        for card in cards:
            with st.container(border=True, gap="xxsmall", height="stretch"):
                st.caption(card.label, help=card.meaning)
                st.badge(card.value, color=COLOURS[card.state])  # type: ignore[arg-type]  # a colour name
                more = "" if card.state == "good" else f" [What helps]({build_link(card.section)})"
                st.caption(f"{escape_markdown(card.detail)}{more}")


def _show_incidents(sample: StackSample, sampler: Sampler, *, shows_reasons: bool) -> None:
    shown = sample.incidents[:INCIDENTS_SHOWN]
    since = f"{format_minute(sampler.started_at)} UTC"
    tables.show_listing(
        tables.INCIDENTS,
        shown if shows_reasons else tables.hide_reasons(shown),
        title="Incidents",
        empty=f"None since this dashboard started at {since}.",
    )
    if len(sample.incidents) > len(shown):
        st.caption(f"The newest {INCIDENTS_SHOWN} since {since}.")


def _show_alerts(sample: StackSample, *, shows_reasons: bool) -> None:
    alerts = sample.alerts if shows_reasons else tables.hide_reasons(sample.alerts)
    tables.show_listing(tables.ALERTS, alerts, title="Active alerts", empty="None.", advice="alerts")
    if sample.alerts_source == "dashboard":
        st.caption(
            "Without Prometheus, this dashboard evaluates the alerts that need no long history, with the "
            "limits and waiting times of the alert rules. A pending alert has not lasted long enough to fire."
        )


def _show_charts(metrics: SampledMetrics, now: datetime) -> None:
    notes = {
        "redis": tables.describe_memory(metrics.scrape),
        "cache": tables.describe_bypasses(metrics.values),
    }
    columns = st.columns(2, gap="medium")
    for index, panel in enumerate(charts.PANELS):
        with columns[index % 2]:
            st.header(panel.title, anchor=False)
            frame = charts.build_frame(panel, metrics, now=now)
            if frame.empty:
                st.caption(f"Collecting: first values in about {2 * REFRESH_SECONDS} s.")
            else:
                spec = panel.build_spec(frame)
                alt = f"{panel.title} over time"
                st.vega_lite_chart(frame, spec, width="stretch", key=f"chart-{panel.topic}", alt=alt)
            note = notes.get(panel.topic, "")
            st.caption(" ".join(filter(None, (panel.meaning, note, build_advice(panel.topic)))))


def _show_operations_table(metrics: SampledMetrics) -> None:
    tables.show_listing(
        tables.OPERATIONS,
        tables.list_operations(metrics.values),
        title=f"Database operations in the last {WINDOW_SECONDS // 60} minutes",
        empty="No operation has used the database in this time.",
    )


def _show_database(service: EnhancedDatabaseService) -> None:
    st.divider()
    st.header("Database", anchor=False)
    live.show_section(
        "operations-statements",
        load=partial(service.list_slowest_statements, STATEMENTS_SHOWN),
        show=_show_statements,
    )
    live.show_section("operations-sizes", load=service.list_table_sizes, show=_show_sizes)
    live.show_section("operations-indexes", load=service.list_unused_indexes, show=_show_unused_indexes)


def _show_statements(statements: Sequence[StatementFigures] | None) -> None:
    if statements is None:
        st.caption("Slowest statements are not shown: the server has not loaded `pg_stat_statements`.")
        return
    tables.show_listing(
        tables.STATEMENTS,
        statements,
        title="Slowest statements since the server's statistics were reset",
        empty="No statement of the service was counted yet.",
        advice="statements",
    )


def _show_sizes(sizes: Iterable[TableFigures]) -> None:
    tables.show_listing(
        tables.SIZES,
        sorted(sizes, key=lambda item: -(item.size_bytes + item.index_size_bytes)),
        title="Table and index sizes",
        empty="There are no tables.",
        advice="size",
    )


def _show_unused_indexes(indexes: Iterable[UnusedIndex]) -> None:
    tables.show_listing(tables.INDEXES, indexes, title="Unused indexes", empty="Every index has been used.")
    st.caption(
        "Not used since the server's statistics were reset; each one slows down every write. A new stack has "
        f"not run all queries yet. [More]({build_link('large-tables-and-unused-indexes')})"
    )


show_operations()
