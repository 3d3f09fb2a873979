"""Cards, tables, charts and alert conditions of the Operations page."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import altair as alt
import pandas as pd
import pytest
import yaml
from prometheus_client.samples import Sample

from core.installation import ROOT
from core.metrics.scrape import Scrape
from core.records import StatementFigures, TableFigures, UnusedIndex
from dashboard.monitoring.alerts import RULES, Alert, AlertBook, Condition, find_conditions
from dashboard.monitoring.queries import (
    CACHE_BYPASSES,
    HIT_RATIO,
    OPERATION_CALLS,
    OPERATION_ERRORS,
    OPERATION_LATENCY,
    POOL_USED,
    POOL_WAITING,
    Query,
    Series,
)
from dashboard.monitoring.sampler import SampledMetrics
from dashboard.pages.operations import advice, charts, tables

NOW = datetime(2013, 3, 1, 21, tzinfo=UTC)
POOL = "echo_db_pool_connections"
LIMIT = "echo_db_pool_max_connections"
HEALTHY: tuple[tuple[str, dict[str, str], float], ...] = (
    ("echo_health_status", {"status": "healthy"}, 1),
    ("echo_service_up", {"service": "database"}, 1),
    ("echo_service_up", {"service": "redis"}, 1),
    ("echo_migrations_pending", {}, 0),
    ("echo_migrations_applied", {}, 5),
    (POOL, {"role": "dashboard", "state": "used"}, 1),
    (LIMIT, {"role": "dashboard"}, 10),
    ("echo_metrics_writers", {"role": "dashboard"}, 2),
    ("echo_scrape_collector_success", {"collector": "health"}, 1),
)


def build_scrape(*samples: tuple[str, dict[str, str], float]) -> Scrape:
    """Return a scrape with these samples, taken at NOW."""
    return Scrape((Sample(*item) for item in samples), taken_at=NOW)


def build_changed_scrape(*changes: tuple[str, dict[str, str], float]) -> Scrape:
    """Return the scrape of a healthy stack in which these samples are changed or added."""
    changed = [(name, labels) for name, labels, _ in changes]
    return build_scrape(*(item for item in HEALTHY if item[:2] not in changed), *changes)


def build_metrics(lines: dict[Query, tuple[Series, ...]]) -> SampledMetrics:
    """Return sampled metrics with these series."""
    return SampledMetrics(
        taken_at=NOW, source="exporter", scrape=build_scrape(*HEALTHY), series=lines, values={}
    )


def build_panel_frame(
    title: str, lines: dict[Query, tuple[Series, ...]]
) -> tuple[charts.Panel, pd.DataFrame]:
    """Return the panel with this title and the data frame of its chart."""
    panel = next(panel for panel in charts.PANELS if panel.title == title)
    return panel, charts.build_frame(panel, build_metrics(lines), now=NOW)


def build_series(*labels: str, values: tuple[float, ...] = (0.5, 1.0)) -> Series:
    """Return a series that ends a minute before NOW, with a minute between its points."""
    count = len(values)
    moments = [NOW - timedelta(minutes=count - index) for index in range(count)]
    return Series(labels, tuple(zip(moments, values, strict=True)))


def test_a_healthy_stack_has_good_cards() -> None:
    """In a healthy stack every card is good, and shows the value of its component."""
    cards = {card.label: card for card in tables.build_cards(build_scrape(*HEALTHY), {}, shows_reasons=True)}
    assert {card.state for card in cards.values()} == {"good"}
    assert cards["Stack"].value == "Healthy"
    assert cards["Connections in use"].value == "1 of 10"
    assert cards["Processes"].detail == "dashboard 2"
    assert cards["Migrations"].detail == "5 applied"


@pytest.mark.parametrize(
    ("change", "label", "value", "state"),
    [
        (("echo_service_up", {"service": "database"}, 0), "PostgreSQL", "Down", "bad"),
        (("echo_service_up", {"service": "redis"}, 0), "Redis", "Down", "bad"),
        (("echo_cache_breaker_open", {"role": "job"}, 1), "Redis", "Bypassed", "warning"),
        (("echo_db_replica_out", {"replica": "1", "role": "dashboard"}, 1), "Replicas", "0 of 1", "warning"),
        (("echo_migrations_pending", {}, 2), "Migrations", "2 pending", "warning"),
        (
            ("echo_db_pool_pending_requests", {"role": "dashboard"}, 3),
            "Connections in use",
            "1 of 10",
            "warning",
        ),
    ],
)
def test_only_the_card_of_a_failing_component_is_not_good(
    change: tuple[str, dict[str, str], float], label: str, value: str, state: str
) -> None:
    """If one component fails, its card is the only card that is not good."""
    cards = tables.build_cards(build_changed_scrape(change), {}, shows_reasons=True)
    assert [(card.label, card.value, card.state) for card in cards if card.state != "good"] == [
        (label, value, state)
    ]


def test_the_redis_card_shows_sentinel() -> None:
    """With Sentinel the card shows how often the primary changed; with a single server it does not."""
    changes = ("echo_cache_primary_changes_total", {"role": "dashboard"}, 2.0)
    for topology, words in (("sentinel", "sentinel, changes of the primary: 2"), ("single", "check took")):
        scrape = build_changed_scrape(
            ("echo_cache_topology", {"topology": topology, "role": "dashboard"}, 1), changes
        )
        [card] = [
            each for each in tables.build_cards(scrape, {}, shows_reasons=True) if each.label == "Redis"
        ]
        assert card.state == "good"
        assert words in card.detail
        assert ("changes" in card.detail) is (topology == "sentinel")


@pytest.mark.parametrize(("up", "card"), [(1, ("Limited", "warning")), (0, ("Down", "bad"))])
def test_operators_see_the_reason_of_an_outage(up: float, card: tuple[str, str]) -> None:
    """Operators see the server's message on the card; for other visitors the message is hidden."""
    reason = "NOPERM no permission"
    scrape = build_changed_scrape(("echo_service_up", {"service": "redis"}, up))
    scrape.reasons = {"redis": reason}
    for shows_reasons, detail in ((True, reason), (False, tables.REASON_HIDDEN)):
        cards = tables.build_cards(scrape, scrape.reasons, shows_reasons=shows_reasons)
        [shown] = [each for each in cards if each.label == "Redis"]
        assert ((shown.value, shown.state), shown.detail) == (card, detail)
    [condition] = find_conditions(scrape, {})
    assert (condition.reason, condition.rule) == (reason, "EchoRedisDown")


def test_missing_metrics_are_unknown() -> None:
    """If the scrape has no metrics, every card is unknown, not healthy."""
    cards = tables.build_cards(build_scrape(), {}, shows_reasons=True)
    assert {card.state for card in cards if card.label != "Stack"} == {"unknown"}
    assert next(card.value for card in cards if card.label == "Stack") == "Unknown"


def test_a_disabled_cache_is_no_fault() -> None:
    """If the scrape has no check of Redis, the card shows that the cache is disabled."""
    scrape = build_scrape(("echo_service_up", {"service": "database"}, 1))
    assert (
        next(
            card.value for card in tables.build_cards(scrape, {}, shows_reasons=True) if card.label == "Redis"
        )
        == "Disabled"
    )


CONDITIONS = [
    (("echo_service_up", {"service": "database"}, 0), "EchoDatabaseDown"),
    (("echo_service_up", {"service": "redis"}, 0), "EchoRedisDown"),
    (("echo_scrape_collector_success", {"collector": "health"}, 0), "EchoCollectorFailing"),
    ((POOL, {"role": "dashboard", "state": "used"}, 9), "EchoPoolNearlyExhausted"),
    (("echo_pg_max_connections", {}, 11), "EchoPoolLimitsExceedServer"),
    (("echo_migrations_pending", {}, 1), "EchoMigrationsPending"),
    (("echo_pg_oldest_transaction_age_seconds", {}, 301), "EchoTransactionOld"),
    (("echo_pg_replication_lag_seconds", {"replica": "one"}, 31), "EchoReplicaLagging"),
    (("echo_cache_breaker_open", {"role": "dashboard"}, 1), "EchoRedisDown"),
    (("echo_task_interval_seconds", {"task": "simulator"}, 10), "EchoTaskLate"),
    (("echo_audit_verification_timestamp_seconds", {}, 1), "EchoAuditBroken"),
]


@pytest.mark.parametrize(("change", "rule"), CONDITIONS)
def test_one_change_causes_one_condition(change: tuple[str, dict[str, str], float], rule: str) -> None:
    """One changed sample causes exactly one condition, that of its alert rule."""
    assert [item.rule for item in find_conditions(build_changed_scrape(change), {})] == [rule]


def test_a_healthy_stack_has_no_condition() -> None:
    """A healthy stack has no condition, even if a task was stopped on purpose."""
    stopped = ("echo_task_interval_seconds", {"task": "simulator"}, 0.0)
    assert list(find_conditions(build_changed_scrape(stopped), {("dashboard",): 0.0})) == []


def test_memory_timeouts_and_late_tasks_are_conditions() -> None:
    """High memory use, pool timeouts and a late task are conditions."""
    task = {"task": "simulator"}
    scrape = build_changed_scrape(
        ("echo_redis_memory_used_bytes", {}, 95),
        ("echo_redis_memory_max_bytes", {}, 100),
        ("echo_task_interval_seconds", task, 10),
        ("echo_task_last_success_timestamp_seconds", task, NOW.timestamp() - 21),
    )
    found = find_conditions(scrape, {("dashboard",): 0.2})
    assert [item.rule for item in found] == ["EchoPoolTimeouts", "EchoRedisMemoryHigh", "EchoTaskLate"]


def test_conditions_match_the_alert_rules() -> None:
    """Each condition has the severity, the waiting time and the text of its rule in alerts.yml."""
    document = yaml.safe_load((ROOT / "exporter/prometheus/alerts.yml").read_text(encoding="utf-8"))
    rules = {rule["alert"]: rule for group in document["groups"] for rule in group["rules"]}
    units = {"s": 1, "m": 60, "h": 3600}
    for name, (severity, wait_seconds) in RULES.items():
        wait = rules[name].get("for", "0s")
        assert (severity, wait_seconds) == (
            rules[name]["labels"]["severity"],
            int(wait[:-1]) * units[wait[-1]],
        )
    for change, name in CONDITIONS:
        if change[0] == "echo_cache_breaker_open":
            continue  # no rule of Prometheus is about a single process whose breaker is open
        [condition] = find_conditions(build_changed_scrape(change), {})
        # remove the templates, for example the one with the host name: only Prometheus fills them in
        summary = re.sub(r"\{\{ with .*?\{\{ end \}\}|\{\{.*?\}\}", "", rules[name]["annotations"]["summary"])
        words = summary.split()
        assert [word for word in words if word not in condition.summary] == []


def test_an_alert_fires_after_its_waiting_time() -> None:
    """An alert is pending until its waiting time ends; after an interruption the waiting begins again."""
    book, late = AlertBook(), Condition("EchoTaskLate", "simulator is late by two intervals", "simulator")
    seen = []
    for seconds, conditions in ((0, [late]), (59, [late]), (60, [late]), (61, []), (62, [late])):
        moment = NOW + timedelta(seconds=seconds)
        alerts = book.update(conditions, clock=seconds, moment=moment)
        seen.append([(alert.state, alert.since) for alert in alerts])
    again = NOW + timedelta(seconds=62)
    assert seen == [[("pending", NOW)], [("pending", NOW)], [("firing", NOW)], [], [("pending", again)]]


def test_alerts_are_a_table() -> None:
    """The table has an alert's state, severity and begin, and a link to the section about its rule."""
    alerts = [
        Alert("EchoRedisDown", "warning", "firing", "Redis does not answer", NOW, "Connection refused"),
        Alert("TheirOwn", "critical", "pending", "Anything", None),
    ]
    shown = tables.ALERTS.build(alerts)
    assert shown.iloc[0].to_dict() == {
        "State": "Firing",
        "Severity": "Warning",
        "Since (UTC)": NOW,
        "What": "Redis does not answer: Connection refused",
        "Alert": "EchoRedisDown",
        "What helps": "troubleshooting#echoredisdown",
    }
    assert shown["What helps"].iloc[1] == "troubleshooting#troubleshooting"
    assert tables.ALERTS.build(tables.hide_reasons(alerts))["What"].iloc[0] == "Redis does not answer"


def build_series_at(minutes: Iterable[float], *labels: str) -> Series:
    """Return a series with the value 1 at these minutes after NOW."""
    return Series(labels, tuple((NOW + timedelta(minutes=minute), 1.0) for minute in minutes))


def test_charts_are_valid_with_their_frames() -> None:
    """The schema accepts each chart, and the data frames have the values of the series."""
    lines = {
        POOL_USED: (build_series("dashboard", values=(1, 4)),),
        POOL_WAITING: (build_series("dashboard", values=(0, 2)),),
        HIT_RATIO: (build_series("user", "near"), build_series("user", "shared")),
    }
    for panel in charts.PANELS:
        frame = charts.build_frame(panel, build_metrics(lines), now=NOW)
        alt.Chart.from_dict({**panel.build_spec(frame), "data": {"values": []}})
    pools = build_panel_frame("Connections by role", lines)[1].dropna()
    assert list(pools["kind"]) == ["in use"] * 2 + ["waiting"] * 2
    hits = build_panel_frame("Cache hit ratio", lines)[1].dropna()
    assert list(hits["value"]) == [50, 100, 50, 100]
    assert set(hits["series"]) == {"user · near", "user · shared"}
    assert hits["until"].iloc[0] == hits["time"].iloc[1]
    assert hits["until"].iloc[1] == NOW


def test_a_gap_in_the_samples_breaks_the_line() -> None:
    """A gap of an hour breaks the line of the pool chart, and no bar of the hit ratio covers the gap."""
    job, away = (0, 1, 120, 121), (0, 1, 2, 3, 120, 121)
    lines = {
        POOL_USED: (build_series_at(range(122), "dashboard"), build_series_at(job, "job")),
        HIT_RATIO: (build_series_at(away, "user", "near"),),
    }
    pools = build_panel_frame("Connections by role", lines)[1].iloc[:-1]
    assert pools[pools["series"] == "dashboard"]["value"].notna().all()
    jobs = pools[pools["series"] == "job"]
    assert [float(value) for value in jobs["value"].fillna(-1)] == [1, 1, -1, 1, 1]
    assert jobs["time"].iloc[2] == NOW + timedelta(minutes=2)
    hits = build_panel_frame("Cache hit ratio", lines)[1].dropna()
    lengths = (hits["until"] - hits["time"]).iloc[:-1]
    assert list(lengths) == [timedelta(minutes=1)] * 5


def test_lines_with_different_sample_times_have_no_gaps() -> None:
    """Five series with different sample times have no gaps in their shared chart."""
    lines = {
        HIT_RATIO: tuple(
            build_series_at([minute + place / 5 for minute in range(40)], "user", str(place))
            for place in range(5)
        )
    }
    hits = build_panel_frame("Cache hit ratio", lines)[1].dropna()
    assert len(hits) == 5 * 40
    for _, band in hits.groupby("series"):
        assert list(band["until"])[:-1] == list(band["time"])[1:]


def test_the_axis_ends_now_and_the_line_at_its_last_sample() -> None:
    """If the last sample is an hour old, the axis ends at NOW, and the line ends an hour before NOW."""
    lines: dict[Query, tuple[Series, ...]] = {HIT_RATIO: (build_series_at((-62, -61, -60), "user", "near"),)}
    frame = build_panel_frame("Cache hit ratio", lines)[1]
    assert frame["time"].iloc[-1] == NOW
    assert frame["value"].isna().iloc[-1]
    drawn = frame.dropna()
    assert drawn["until"].max() == NOW - timedelta(minutes=59)


def test_frames_of_an_empty_history_are_empty() -> None:
    """Without samples the data of each chart and the table of operations are empty."""
    assert all(build_panel_frame(panel.title, {})[1].empty for panel in charts.PANELS)
    assert tables.OPERATIONS.build(tables.list_operations({})).empty


def test_operations_are_those_with_traffic_busiest_first() -> None:
    """Only operations with calls are listed, the most frequent first; a missing quantile is an empty cell."""
    frame = tables.OPERATIONS.build(
        tables.list_operations(
            {
                OPERATION_CALLS: {("a",): 1.0, ("b",): 2.0, ("idle",): 0.0},
                OPERATION_ERRORS: {("b",): 0.5},
                OPERATION_LATENCY[0]: {("a",): 0.002},
            }
        )
    )
    assert list(frame["Operation"]) == ["b", "a"]
    assert list(frame["Errors/s"]) == [0.5, 0.0]
    assert frame["p50 (ms)"].iloc[1] == 2.0
    assert frame["p50 (ms)"].isna().iloc[0]


def test_database_tables_have_readable_units() -> None:
    """Sizes are in MiB, times in milliseconds; the text of a statement is on one line."""
    sizes = tables.SIZES.build([TableFigures("large", 1024 * 1024, 524_288, 9)])
    assert sizes.iloc[0].to_dict() == {
        "Table": "large",
        "Table (MiB)": 1.0,
        "Indexes (MiB)": 0.5,
        "Rows, about": 9,
    }
    statements = tables.STATEMENTS.build([StatementFigures("op", "SELECT\n  1", 4, 2.0, 0.5, 8)])
    assert statements.iloc[0].to_dict() == {
        "Operation": "op",
        "Total (s)": 2.0,
        "Mean (ms)": 500.0,
        "Calls": 4,
        "Rows/call": 2.0,
        "Statement": "SELECT 1",
    }
    indexes = tables.INDEXES.build([UnusedIndex("users", "users_name", 524_288, None)])
    assert list(indexes["Size (MiB)"]) == [0.5]


def test_memory_is_described_with_its_limit() -> None:
    """The text has the used memory, the limit and the share; without these metrics the text is empty."""
    known = build_scrape(
        ("echo_redis_memory_used_bytes", {}, 64 * tables.MEBIBYTE),
        ("echo_redis_memory_max_bytes", {}, 256 * tables.MEBIBYTE),
    )
    assert tables.describe_memory(known).startswith("Now 64.0 MiB of 256 MiB (25%)")
    assert tables.describe_memory(build_scrape()) == ""


def test_bypasses_are_described() -> None:
    """The text has the rate of reads that bypassed Redis, because the hit ratio does not count them."""
    assert tables.describe_bypasses({CACHE_BYPASSES: {(): 2.5}}).startswith("2.50 reads/s bypassed Redis")
    assert tables.describe_bypasses({CACHE_BYPASSES: {(): 0.0}}) == ""


def test_sections_are_found_by_their_anchors(tmp_path: Path) -> None:
    """Every heading of the first two levels begins a section with an anchor as on GitHub."""
    document = tmp_path / "troubleshooting.md"
    document.write_text(
        "# T\n\nfirst\n\n## Pool\n\nhelp\n\n### deeper\n\nmore\n\n## Hit ratio (cache)\n\nx\n"
    )
    sections = advice.read_sections(document)
    assert [section.anchor for section in sections] == ["t", "pool", "hit-ratio-cache"]
    assert sections[1].text == "help\n\n### deeper\n\nmore"
    assert advice.read_sections(document.with_name("missing.md")) == ()
    assert advice.build_advice("pool").endswith("[More](troubleshooting#echopoolnearlyexhausted)")


def test_every_link_leads_to_a_section() -> None:
    """The links of panels and alert rules lead to sections of docs/troubleshooting.md."""
    anchors = {section.anchor for section in advice.read_sections()}
    assert {item.section for item in advice.ADVICE.values()} <= anchors
    assert {advice.build_anchor(rule) for rule in RULES} <= anchors
