"""The Operations page's cards, tables, charts and conditions."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import altair as alt
import pytest
from prometheus_client.samples import Sample

from core.metrics.scrape import Scrape
from core.records import Health, PoolUse, StatementFigures, TableFigures, UnusedIndex
from dashboard.pages.operations import alerts, charts, tables
from dashboard.pages.operations.alerts import find_alerts
from dashboard.pages.operations.queries import (
    HIT_RATIO,
    OPERATION_CALLS,
    OPERATION_ERRORS,
    OPERATION_LATENCY,
    POOL_USED,
    POOL_WAITING,
    Query,
    Series,
)
from dashboard.pages.operations.telemetry import Snapshot

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


def build_snapshot(lines: dict[Query, tuple[Series, ...]]) -> Snapshot:
    """Return a snapshot with these charts."""
    return Snapshot(
        taken_at=NOW,
        source="exporter",
        scrape=take(*HEALTHY),
        series=lines,
        values={},
        alerts=(),
        warnings=(),
    )


def build_series(*labels: str, values: tuple[float, ...] = (0.5, 1.0)) -> Series:
    """Return a line that ends now, a minute between its points."""
    count = len(values)
    moments = [NOW - timedelta(minutes=count - index) for index in range(count)]
    return Series(labels, tuple(zip(moments, values, strict=True)))


def test_a_healthy_stack_has_good_cards() -> None:
    """Each part by name, with its figure."""
    cards = {card.label: card for card in tables.build_cards(take(*HEALTHY))}
    assert {card.state for card in cards.values()} == {"good"}
    assert cards["Stack"].value == "Healthy"
    assert cards["Connections"].value == "1 of 10"
    assert cards["Processes"].detail == "dashboard 2"
    assert cards["Migrations"].detail == "5 applied"


@pytest.mark.parametrize(
    ("change", "label", "value", "state"),
    [
        (("echo_service_up", {"service": "database"}, 0), "PostgreSQL", "Down", "bad"),
        (("echo_service_up", {"service": "redis"}, 0), "Redis", "Down", "bad"),
        (("echo_cache_breaker_open", {"role": "job"}, 1), "Redis", "Bypassed", "warning"),
        (("echo_migrations_pending", {}, 2), "Migrations", "2 pending", "warning"),
        (("echo_db_pool_pending_requests", {"role": "dashboard"}, 3), "Connections", "1 of 10", "warning"),
    ],
)
def test_a_part_that_fails_shows(
    change: tuple[str, dict[str, str], float], label: str, value: str, state: str
) -> None:
    """Its card, and no other, is not good."""
    cards = tables.build_cards(take_with(change))
    assert [(card.label, card.value, card.state) for card in cards if card.state != "good"] == [
        (label, value, state)
    ]


@pytest.mark.parametrize(
    ("up", "state", "card"),
    [(1, "degraded", ("Limited", "warning")), (0, "unhealthy", ("Down", "bad"))],
)
def test_a_reason_is_shown(up: float, state: str, card: tuple[str, str]) -> None:
    """In the exporter's words or the dashboard's own, on the card and as a condition."""
    reason = "NOPERM no permission"
    scrape = take_with(("echo_service_up", {"service": "redis"}, up))
    scrape.reasons = {"redis": reason}
    [shown] = [each for each in tables.build_cards(scrape) if each.label == "Redis"]
    assert ((shown.value, shown.state), shown.detail) == (card, reason)
    [condition] = find_alerts(scrape, {})
    assert (condition.summary, condition.topic) == (reason, "echoredisdown")
    own = Health(
        status="degraded",
        timestamp=NOW,
        database="healthy",
        database_seconds=0.1,
        migrations_pending=0,
        migrations_applied=1,
        redis=state,
        redis_enabled=True,
        redis_seconds=0.1,
        redis_reason=reason,
        pool=PoolUse(10, 1, 1, 0, 0, is_exhausted=False),
    )
    [shown] = [each for each in tables.build_own_cards(own) if each.label == "Redis"]
    assert ((shown.value, shown.state), shown.detail) == (card, reason)


def test_what_is_not_published_is_unknown() -> None:
    """A scrape without anything says so, rather than that all is well."""
    cards = tables.build_cards(take())
    assert {card.state for card in cards if card.label != "Stack"} == {"unknown"}
    assert next(card.value for card in cards if card.label == "Stack") == "Unknown"


def test_a_disabled_cache_is_no_fault() -> None:
    """Its check is absent, which is how the exporter says disabled."""
    scrape = take(("echo_service_up", {"service": "database"}, 1))
    assert next(card.value for card in tables.build_cards(scrape) if card.label == "Redis") == "Disabled"


CONDITIONS = [
    (("echo_service_up", {"service": "database"}, 0), "critical", "echodatabasedown"),
    (("echo_service_up", {"service": "redis"}, 0), "warning", "echoredisdown"),
    (("echo_scrape_collector_success", {"collector": "health"}, 0), "warning", "echocollectorfailing"),
    ((POOL, {"role": "dashboard", "state": "used"}, 9), "warning", "echopoolnearlyexhausted"),
    (("echo_pg_max_connections", {}, 11), "warning", "echopoollimitsexceedserver"),
    (("echo_migrations_pending", {}, 1), "warning", "echomigrationspending"),
    (("echo_pg_oldest_transaction_age_seconds", {}, 301), "warning", "echotransactionold"),
    (("echo_pg_replication_lag_seconds", {"replica": "one"}, 31), "warning", "echoreplicalagging"),
    (("echo_cache_breaker_open", {"role": "dashboard"}, 1), "warning", "echoredisdown"),
]


@pytest.mark.parametrize(("change", "severity", "topic"), CONDITIONS)
def test_a_condition_is_seen_alone(
    change: tuple[str, dict[str, str], float], severity: str, topic: str
) -> None:
    """One change, one condition, and the section that helps."""
    found = find_alerts(take_with(change), {})
    assert [(item.severity, item.topic) for item in found] == [(severity, topic)]


def test_a_healthy_stack_has_no_condition() -> None:
    """Nothing is claimed of figures within their limits."""
    assert find_alerts(take(*HEALTHY), {("dashboard",): 0.0}) == ()


def test_memory_timeouts_and_late_tasks_are_conditions() -> None:
    """Those that need two figures."""
    task = {"task": "simulate"}
    scrape = take_with(
        ("echo_redis_memory_used_bytes", {}, 95),
        ("echo_redis_memory_max_bytes", {}, 100),
        ("echo_task_interval_seconds", task, 10),
        ("echo_task_last_success_timestamp_seconds", task, NOW.timestamp() - 21),
    )
    found = find_alerts(scrape, {("dashboard",): 0.2})
    assert [item.topic for item in found] == ["echopooltimeouts", "echoredismemoryhigh", "echotasklate"]


def at_minutes(minutes: Iterable[int], *labels: str) -> Series:
    """Return a line of ones at so many minutes from now."""
    return Series(labels, tuple((NOW + timedelta(minutes=minute), 1.0) for minute in minutes))


def test_charts_are_valid_with_their_frames() -> None:
    """The schema accepts each; columns are what the specification names."""
    snapshot = build_snapshot(
        {
            POOL_USED: (build_series("dashboard", values=(1, 4)),),
            POOL_WAITING: (build_series("dashboard", values=(0, 2)),),
            HIT_RATIO: (build_series("user", "near"), build_series("user", "shared")),
        }
    )
    for spec in (
        charts.build_latency_chart(),
        charts.build_pool_chart(4.0),
        charts.build_memory_chart(),
        charts.build_hit_chart(2),
    ):
        alt.Chart.from_dict({**spec, "data": {"values": []}})
    assert list(charts.build_pool_frame(snapshot)["kind"]) == ["in use"] * 2 + ["waiting"] * 2
    hits = charts.build_hit_frame(snapshot)
    assert list(hits["value"]) == [50, 100, 50, 100]
    assert set(hits["series"]) == {"user · near", "user · shared"}
    assert hits["until"].iloc[0] == hits["time"].iloc[1]
    assert hits["until"].iloc[1] == NOW


def test_lines_end_where_nothing_was() -> None:
    """Two jobs with an hour between them are not one, and an hour in which nobody looked is empty."""
    job, away = (0, 1, 120, 121), (0, 1, 2, 3, 120, 121)
    snapshot = build_snapshot(
        {
            POOL_USED: (at_minutes(range(122), "dashboard"), at_minutes(job, "job")),
            HIT_RATIO: (at_minutes(away, "user", "near"),),
        }
    )
    pools = charts.build_pool_frame(snapshot)
    assert pools[pools["series"] == "dashboard"]["value"].notna().all()
    lines = pools[pools["series"] == "job"]
    assert [float(value) for value in lines["value"].fillna(-1)] == [1, 1, -1, 1, 1]
    assert lines["time"].iloc[2] == NOW + timedelta(minutes=2)
    hits = charts.build_hit_frame(snapshot)
    lengths = (hits["until"] - hits["time"]).iloc[:-1]
    assert list(lengths) == [timedelta(minutes=1)] * 5


def test_frames_of_an_empty_history_are_empty() -> None:
    """No line, no row, and no failure."""
    snapshot = build_snapshot({})
    for frame in (
        charts.build_latency_frame(snapshot),
        charts.build_pool_frame(snapshot),
        charts.build_hit_frame(snapshot),
        charts.build_memory_frame(snapshot),
        tables.build_operations_table({}),
    ):
        assert frame.empty


def test_operations_are_those_with_traffic_busiest_first() -> None:
    """Quantiles in milliseconds; one without any is empty, not zero."""
    frame = tables.build_operations_table(
        {
            OPERATION_CALLS: {("a",): 1.0, ("b",): 2.0, ("idle",): 0.0},
            OPERATION_ERRORS: {("b",): 0.5},
            OPERATION_LATENCY[0]: {("a",): 0.002},
        }
    )
    assert list(frame["operation"]) == ["b", "a"]
    assert list(frame["errors"]) == [0.5, 0.0]
    assert frame["p50"].iloc[1] == 2.0
    assert frame["p50"].isna().iloc[0]


def test_database_tables_are_in_people_s_units() -> None:
    """MiB, milliseconds, rows a call, one line of a statement."""
    sizes = tables.build_sizes_table(
        [TableFigures("small", 0, 0, 1), TableFigures("large", 1024 * 1024, 1024 * 1024, 9)]
    )
    assert list(sizes["table"]) == ["large", "small"]
    assert sizes["size"].iloc[0] == 1
    statements = tables.build_statements_table([StatementFigures("op", "SELECT\n  1", 4, 2.0, 0.5, 8)])
    assert statements.iloc[0].to_dict() == {
        "operation": "op",
        "total": 2.0,
        "mean": 500.0,
        "calls": 4,
        "rows": 2.0,
        "statement": "SELECT 1",
    }
    indexes = tables.build_indexes_table([UnusedIndex("users", "users_name", 524_288, None)])
    assert list(indexes["size"]) == [0.5]


def test_memory_is_described_with_its_limit() -> None:
    """Used, limit and share; nothing when Redis was not asked."""
    known = take(
        ("echo_redis_memory_used_bytes", {}, 64 * charts.MEBIBYTE),
        ("echo_redis_memory_max_bytes", {}, 256 * charts.MEBIBYTE),
    )
    assert tables.describe_memory(known).startswith("64.0 MiB of 256 MiB (25%)")
    assert tables.describe_memory(take()) == ""


def test_sections_are_found_by_the_anchors_of_links(tmp_path: Path) -> None:
    """A heading's anchor is what a repository's site makes of it."""
    document = tmp_path / "troubleshooting.md"
    document.write_text(
        "# T\n\nfirst\n\n## Pool\n\nhelp\n\n### deeper\n\nmore\n\n## Hit ratio (cache)\n\nx\n"
    )
    sections = alerts.read_sections(document)
    assert [section.anchor for section in sections] == ["t", "pool", "hit-ratio-cache"]
    assert sections[1].text == "help\n\n### deeper\n\nmore"
    assert alerts.read_sections(document.with_name("missing.md")) == ()
    assert alerts.build_advice("pool").endswith("[More](troubleshooting#echopoolnearlyexhausted)")


def test_every_link_leads_to_a_section() -> None:
    """Of panels and of conditions, in the document that is shipped."""
    anchors = {section.anchor for section in alerts.read_sections()}
    assert set(alerts.SECTIONS) == set(alerts.ADVICE)
    assert set(alerts.SECTIONS.values()) <= anchors
    assert {topic for _, _, topic in CONDITIONS} <= anchors
