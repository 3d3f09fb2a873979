"""The alerts of the stack and what to do about them.

Without Prometheus the alerts come from a simple reading of one scrape, with the limits of the alert rules
but without their waiting times: they show at once. The advice is one sentence per panel, with a link to
its section of `docs/troubleshooting.md`, which is a page of the dashboard as well.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from core.installation import TROUBLESHOOTING
from core.metrics.scrape import Scrape
from dashboard.pages.operations.queries import Values

POOL_PART = 0.8
SERVER_CONNECTIONS_PART = 0.9
MEMORY_PART = 0.9
TRANSACTION_SECONDS = 300
LAG_SECONDS = 30
LATE_INTERVALS = 2


Topic = Literal["health", "alerts", "pool", "cache", "latency", "statements", "size", "redis", "migrations"]

PAGE = "troubleshooting"

ADVICE: dict[Topic, str] = {
    "health": "Not healthy: `make status` shows what does not run, `make up` starts it.",
    "alerts": "Each alert links to its advice. If one stays active, read the logs first.",
    "pool": "Requests waiting for long: find what holds connections, then raise `DATABASE_CONNECTION_LIMIT`.",
    "cache": "Amber under load: look for bursts of writes, or for a Redis that evicts keys.",
    "latency": "p99 above 100 ms for long: find the slow operation below, then its statements.",
    "statements": "One statement takes far more than all others: `EXPLAIN` it, and look for a missing index.",
    "size": "A table outgrows the others: drop old months with `echo-markets maintain --keep-days`.",
    "redis": "Near its limit with many evictions: raise `maxmemory`. Down: calls still work, but slower.",
    "migrations": "Pending: `make migrate` applies them; `echo-markets migrate status` lists them.",
}

SECTIONS: dict[str, str] = {
    "health": "echodatabasedown",
    "alerts": "troubleshooting",
    "pool": "echopoolnearlyexhausted",
    "cache": "echocachehitratiolow",
    "latency": "echolatencybudgetburnsfast",
    "statements": "slow-statements",
    "size": "large-tables-and-unused-indexes",
    "redis": "echoredisdown",
    "migrations": "echomigrationspending",
}
"""The section of the document for each topic; an alert names its own."""


class Alert(msgspec.Struct, frozen=True):
    """An active alert; `state` is pending, firing or seen, `topic` a section of the troubleshooting page."""

    name: str
    severity: str
    state: str
    summary: str
    topic: str
    since: datetime | None


class Section(msgspec.Struct, frozen=True):
    """A section of the troubleshooting page and the anchor of its links."""

    anchor: str
    title: str
    text: str


def build_link(topic: str) -> str:
    """Return the address of the section of a topic or an alert, relative to any page."""
    return f"{PAGE}#{SECTIONS.get(topic, topic)}"


def build_advice(topic: Topic) -> str:
    """Return the advice of a panel with its link, as Markdown."""
    return f"{ADVICE[topic]} [More]({build_link(topic)})"


def read_sections(document: Path = TROUBLESHOOTING) -> tuple[Section, ...]:
    """Return the introduction of the document and one section per second-level heading."""
    try:
        text = document.read_text(encoding="utf-8")
    except OSError:
        return ()
    parts = re.split(r"^##? +(.+)$", text, flags=re.MULTILINE)[1:]
    return tuple(
        Section(anchor=build_anchor(title), title=title.strip(), text=body.strip())
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    )


def build_anchor(title: str) -> str:
    """Return the anchor that a repository's site makes of a heading: lower case, hyphens."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def find_alerts(scrape: Scrape, pool_timeouts: Values) -> tuple[Alert, ...]:
    """Return the alerts of the present; `pool_timeouts` are timeouts of the pools per second by role."""
    return (
        *_check_services(scrape),
        *_check_pools(scrape, pool_timeouts),
        *_check_database(scrape),
        *_check_redis(scrape),
        *_check_tasks(scrape, scrape.taken_at),
    )


def _check_services(scrape: Scrape) -> Iterator[Alert]:
    for (service,), up in scrape.sum_by("echo_service_up", "service").items():
        if not up:
            severity = "critical" if service == "database" else "warning"
            name = "The database does not answer" if service == "database" else "Redis cannot be used"
            topic = "echodatabasedown" if service == "database" else "echoredisdown"
            yield _alert(name, severity, topic, scrape.reasons.get(service, ""))
    for (collector,), works in scrape.sum_by("echo_scrape_collector_success", "collector").items():
        if not works:
            yield _alert(f"The exporter's collector “{collector}” fails", "warning", "echocollectorfailing")


def _check_pools(scrape: Scrape, pool_timeouts: Values) -> Iterator[Alert]:
    limits = scrape.sum_by("echo_db_pool_max_connections", "role")
    for (role,), used in scrape.sum_by("echo_db_pool_connections", "role", state="used").items():
        limit = limits.get((role,), 0.0)
        if limit and used / limit > POOL_PART:
            yield _alert(
                f"The pool of the {role} is nearly exhausted: {used:.0f} of {limit:.0f}",
                "warning",
                "echopoolnearlyexhausted",
            )
    for (role,), rate in pool_timeouts.items():
        if rate > 0:
            yield _alert(
                f"Calls of the {role} timed out waiting for a connection", "critical", "echopooltimeouts"
            )
    allowed = scrape.find("echo_pg_max_connections")
    total = sum(limits.values())
    if allowed and total > SERVER_CONNECTIONS_PART * allowed:
        text = f"The pools may open {total:.0f} of the server's {allowed:.0f} connections"
        yield _alert(text, "warning", "echopoollimitsexceedserver")


def _check_database(scrape: Scrape) -> Iterator[Alert]:
    pending = scrape.total("echo_migrations_pending")
    if pending:
        yield _alert(f"{pending:.0f} migrations are pending", "warning", "echomigrationspending")
    age = scrape.total("echo_pg_oldest_transaction_age_seconds")
    if age > TRANSACTION_SECONDS:
        yield _alert(f"A transaction has been open for {age:.0f} s", "warning", "echotransactionold")
    for (replica,), lag in scrape.sum_by("echo_pg_replication_lag_seconds", "replica").items():
        if lag > LAG_SECONDS:
            yield _alert(f"The replica {replica} is {lag:.0f} s behind", "warning", "echoreplicalagging")


def _check_redis(scrape: Scrape) -> Iterator[Alert]:
    if scrape.total("echo_service_up", service="redis") and "redis" in scrape.reasons:
        yield _alert("Redis is degraded", "warning", "echoredisdown", scrape.reasons["redis"])
    if scrape.total("echo_cache_breaker_open"):
        yield _alert("A process bypasses Redis: its circuit breaker is open", "warning", "echoredisdown")
    used, limit = scrape.total("echo_redis_memory_used_bytes"), scrape.total("echo_redis_memory_max_bytes")
    if limit and used / limit > MEMORY_PART:
        yield _alert(f"Redis has used {used / limit:.0%} of its memory", "warning", "echoredismemoryhigh")


def _check_tasks(scrape: Scrape, now: datetime) -> Iterator[Alert]:
    intervals = scrape.sum_by("echo_task_interval_seconds", "task")
    for (task,), moment in scrape.sum_by("echo_task_last_success_timestamp_seconds", "task").items():
        interval = intervals.get((task,), 0.0)
        late = now.timestamp() - moment
        if interval and late > LATE_INTERVALS * interval:
            yield _alert(f"The task {task} is late: last success {late:.0f} s ago", "warning", "echotasklate")


def _alert(name: str, severity: str, topic: str, summary: str = "") -> Alert:
    return Alert(name=name, severity=severity, state="seen", summary=summary, topic=topic, since=None)
