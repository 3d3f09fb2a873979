"""The Operations page's cards, tables, charts and conditions."""

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


def take(*samples: tuple[str, dict[str, str], float]) -> Scrape:
    """Return a scrape."""
    return Scrape((Sample(*item) for item in samples), taken_at=NOW)


def take_with(*changes: tuple[str, dict[str, str], float]) -> Scrape:
    """Return a healthy scrape in which these samples are different, or new."""
    changed = [(name, labels) for name, labels, _ in changes]
    return take(*(item for item in HEALTHY if item[:2] not in changed), *changes)


def build_metrics(lines: dict[Query, tuple[Series, ...]]) -> SampledMetrics:
    """Return metrics with these charts."""
    return SampledMetrics(taken_at=NOW, source="exporter", scrape=take(*HEALTHY), series=lines, values={})


def draw(title: str, lines: dict[Query, tuple[Series, ...]]) -> tuple[charts.Panel, pd.DataFrame]:
    """Return a panel and its data."""
    panel = next(panel for panel in charts.PANELS if panel.title == title)
    return panel, charts.build_frame(panel, build_metrics(lines), now=NOW)


def build_series(*labels: str, values: tuple[float, ...] = (0.5, 1.0)) -> Series:
    """Return a line that ends now, a minute between its points."""
    count = len(values)
    moments = [NOW - timedelta(minutes=count - index) for index in range(count)]
    return Series(labels, tuple(zip(moments, values, strict=True)))


def test_a_healthy_stack_has_good_cards() -> None:
    """Each part of the stack has a card with its name and figure."""
    cards = {card.label: card for card in tables.build_cards(take(*HEALTHY), {}, shows_words=True)}
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
def test_a_part_that_fails_shows(
    change: tuple[str, dict[str, str], float], label: str, value: str, state: str
) -> None:
    """Only the card of the failing part is not good."""
    cards = tables.build_cards(take_with(change), {}, shows_words=True)
    assert [(card.label, card.value, card.state) for card in cards if card.state != "good"] == [
        (label, value, state)
    ]


def test_a_redis_that_may_move_says_so() -> None:
    """The card names how the primary is found and how often it changed; a single server has neither."""
    changes = ("echo_cache_primary_changes_total", {"role": "dashboard"}, 2.0)
    for topology, words in (("sentinel", "sentinel, changes of the primary: 2"), ("single", "check took")):
        scrape = take_with(("echo_cache_topology", {"topology": topology, "role": "dashboard"}, 1), changes)
        [card] = [each for each in tables.build_cards(scrape, {}, shows_words=True) if each.label == "Redis"]
        assert card.state == "good"
        assert words in card.detail
        assert ("changes" in card.detail) is (topology == "sentinel")


@pytest.mark.parametrize(("up", "card"), [(1, ("Limited", "warning")), (0, ("Down", "bad"))])
def test_a_reason_is_shown(up: float, card: tuple[str, str]) -> None:
    """Operators see the server's message on the card and in the condition."""
    reason = "NOPERM no permission"
    scrape = take_with(("echo_service_up", {"service": "redis"}, up))
    scrape.reasons = {"redis": reason}
    for shows_words, detail in ((True, reason), (False, tables.WORDS_HIDDEN)):
        cards = tables.build_cards(scrape, scrape.reasons, shows_words=shows_words)
        [shown] = [each for each in cards if each.label == "Redis"]
        assert ((shown.value, shown.state), shown.detail) == (card, detail)
    [condition] = find_conditions(scrape, {})
    assert (condition.words, condition.rule) == (reason, "EchoRedisDown")


def test_what_is_not_published_is_unknown() -> None:
    """A scrape without the metrics shows unknown, not healthy."""
    cards = tables.build_cards(take(), {}, shows_words=True)
    assert {card.state for card in cards if card.label != "Stack"} == {"unknown"}
    assert next(card.value for card in cards if card.label == "Stack") == "Unknown"


def test_a_disabled_cache_is_no_fault() -> None:
    """The exporter omits the check of a disabled cache."""
    scrape = take(("echo_service_up", {"service": "database"}, 1))
    assert (
        next(card.value for card in tables.build_cards(scrape, {}, shows_words=True) if card.label == "Redis")
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
def test_a_condition_is_seen_alone(change: tuple[str, dict[str, str], float], rule: str) -> None:
    """One change of the scrape causes exactly one condition."""
    assert [item.rule for item in find_conditions(take_with(change), {})] == [rule]


def test_a_healthy_stack_has_no_condition() -> None:
    """Figures within their limits, and a task that was stopped on purpose, cause no condition."""
    stopped = ("echo_task_interval_seconds", {"task": "simulator"}, 0.0)
    assert list(find_conditions(take_with(stopped), {("dashboard",): 0.0})) == []


def test_memory_timeouts_and_late_tasks_are_conditions() -> None:
    """These conditions need two figures each."""
    task = {"task": "simulator"}
    scrape = take_with(
        ("echo_redis_memory_used_bytes", {}, 95),
        ("echo_redis_memory_max_bytes", {}, 100),
        ("echo_task_interval_seconds", task, 10),
        ("echo_task_last_success_timestamp_seconds", task, NOW.timestamp() - 21),
    )
    found = find_conditions(scrape, {("dashboard",): 0.2})
    assert [item.rule for item in found] == ["EchoPoolTimeouts", "EchoRedisMemoryHigh", "EchoTaskLate"]


def test_alerts_are_those_of_the_rules() -> None:
    """Severity, waiting time and text equal those of the alert rules."""
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
            continue  # no rule speaks of one process that goes without Redis
        [condition] = find_conditions(take_with(change), {})
        # Prometheus alone knows several hosts
        summary = re.sub(r"\{\{ with .*?\{\{ end \}\}|\{\{.*?\}\}", "", rules[name]["annotations"]["summary"])
        words = summary.split()
        assert [word for word in words if word not in condition.summary] == []


def test_an_alert_fires_after_its_waiting_time() -> None:
    """It is pending until then, with its begin; an alert that ended begins anew."""
    book, late = AlertBook(), Condition("EchoTaskLate", "simulator is late by two intervals", "simulator")
    seen = []
    for seconds, conditions in ((0, [late]), (59, [late]), (60, [late]), (61, []), (62, [late])):
        moment = NOW + timedelta(seconds=seconds)
        alerts = book.update(conditions, clock=seconds, moment=moment)
        seen.append([(alert.state, alert.since) for alert in alerts])
    again = NOW + timedelta(seconds=62)
    assert seen == [[("pending", NOW)], [("pending", NOW)], [("firing", NOW)], [], [("pending", again)]]


def test_alerts_are_a_table() -> None:
    """It has state, severity and begin; the link leads to the section of the rule, or to the page."""
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
    assert tables.ALERTS.build(tables.hide_words(alerts))["What"].iloc[0] == "Redis does not answer"


def at_minutes(minutes: Iterable[float], *labels: str) -> Series:
    """Return a line of ones at so many minutes from now."""
    return Series(labels, tuple((NOW + timedelta(minutes=minute), 1.0) for minute in minutes))


def test_charts_are_valid_with_their_frames() -> None:
    """The schema accepts each chart, and the columns are those of the specification."""
    lines = {
        POOL_USED: (build_series("dashboard", values=(1, 4)),),
        POOL_WAITING: (build_series("dashboard", values=(0, 2)),),
        HIT_RATIO: (build_series("user", "near"), build_series("user", "shared")),
    }
    for panel in charts.PANELS:
        frame = charts.build_frame(panel, build_metrics(lines), now=NOW)
        alt.Chart.from_dict({**panel.build_spec(frame), "data": {"values": []}})
    pools = draw("Connections by role", lines)[1].dropna()
    assert list(pools["kind"]) == ["in use"] * 2 + ["waiting"] * 2
    hits = draw("Cache hit ratio", lines)[1].dropna()
    assert list(hits["value"]) == [50, 100, 50, 100]
    assert set(hits["series"]) == {"user · near", "user · shared"}
    assert hits["until"].iloc[0] == hits["time"].iloc[1]
    assert hits["until"].iloc[1] == NOW


def test_lines_end_where_nothing_was() -> None:
    """Two jobs with an hour between them are two lines, and an hour without samples is empty."""
    job, away = (0, 1, 120, 121), (0, 1, 2, 3, 120, 121)
    lines = {
        POOL_USED: (at_minutes(range(122), "dashboard"), at_minutes(job, "job")),
        HIT_RATIO: (at_minutes(away, "user", "near"),),
    }
    pools = draw("Connections by role", lines)[1].iloc[:-1]
    assert pools[pools["series"] == "dashboard"]["value"].notna().all()
    jobs = pools[pools["series"] == "job"]
    assert [float(value) for value in jobs["value"].fillna(-1)] == [1, 1, -1, 1, 1]
    assert jobs["time"].iloc[2] == NOW + timedelta(minutes=2)
    hits = draw("Cache hit ratio", lines)[1].dropna()
    lengths = (hits["until"] - hits["time"]).iloc[:-1]
    assert list(lengths) == [timedelta(minutes=1)] * 5


def test_lines_that_begin_at_different_moments_have_no_holes() -> None:
    """A cache that was used later is sampled at other times than the first one."""
    lines = {
        HIT_RATIO: tuple(
            at_minutes([minute + place / 5 for minute in range(40)], "user", str(place)) for place in range(5)
        )
    }
    hits = draw("Cache hit ratio", lines)[1].dropna()
    assert len(hits) == 5 * 40
    for _, band in hits.groupby("series"):
        assert list(band["until"])[:-1] == list(band["time"])[1:]


def test_a_chart_goes_on_to_now_and_its_line_does_not() -> None:
    """After the exporter stopped an hour ago, the axis shows that hour and the line ends before it."""
    lines: dict[Query, tuple[Series, ...]] = {HIT_RATIO: (at_minutes((-62, -61, -60), "user", "near"),)}
    frame = draw("Cache hit ratio", lines)[1]
    assert frame["time"].iloc[-1] == NOW
    assert frame["value"].isna().iloc[-1]
    drawn = frame.dropna()
    assert drawn["until"].max() == NOW - timedelta(minutes=59)


def test_frames_of_an_empty_history_are_empty() -> None:
    """They have no line and no row, and raise no error."""
    assert all(draw(panel.title, {})[1].empty for panel in charts.PANELS)
    assert tables.OPERATIONS.build(tables.list_operations({})).empty


def test_operations_are_those_with_traffic_busiest_first() -> None:
    """Quantiles are in milliseconds; an operation without one has an empty cell, not zero."""
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


def test_database_tables_are_in_people_s_units() -> None:
    """The units are MiB, milliseconds and rows a call; a statement is one line."""
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
    """The text has used memory, limit and share; it is empty when Redis was not asked."""
    known = take(
        ("echo_redis_memory_used_bytes", {}, 64 * tables.MEBIBYTE),
        ("echo_redis_memory_max_bytes", {}, 256 * tables.MEBIBYTE),
    )
    assert tables.describe_memory(known).startswith("Now 64.0 MiB of 256 MiB (25%)")
    assert tables.describe_memory(take()) == ""


def test_reads_past_redis_are_said() -> None:
    """These reads are in no hit ratio, so a chart without them needs the note."""
    assert tables.describe_bypasses({CACHE_BYPASSES: {(): 2.5}}).startswith("2.50 reads/s bypassed Redis")
    assert tables.describe_bypasses({CACHE_BYPASSES: {(): 0.0}}) == ""


def test_sections_are_found_by_the_anchors_of_links(tmp_path: Path) -> None:
    """The anchor of a heading equals the one that a repository's site makes."""
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
    """The links of panels and alerts lead to a section of the shipped document."""
    anchors = {section.anchor for section in advice.read_sections()}
    assert {item.section for item in advice.ADVICE.values()} <= anchors
    assert {advice.build_anchor(rule) for rule in RULES} <= anchors
