"""The alert rules that the dashboard evaluates itself, for a stack without Prometheus.

Has those rules of `exporter/prometheus/alerts.yml` that need only the scrapes of a few minutes. Owns the
limits, the waiting times and the summaries of these rules; a test compares them with that file. Sends no
requests itself.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Literal

import msgspec

from core.metrics.scrape import Scrape
from dashboard.formats import format_share
from dashboard.monitoring.queries import Values

POOL_PART = 0.8
SERVER_CONNECTIONS_PART = 0.9
MEMORY_PART = 0.9
TRANSACTION_SECONDS = 300
LAG_SECONDS = 30
LATE_INTERVALS = 2

RULES: dict[str, tuple[str, int]] = {
    "EchoDatabaseDown": ("critical", 60),
    "EchoRedisDown": ("warning", 300),
    "EchoCollectorFailing": ("warning", 600),
    "EchoMigrationsPending": ("warning", 600),
    "EchoTaskLate": ("warning", 60),
    "EchoAuditBroken": ("critical", 0),
    "EchoPoolNearlyExhausted": ("warning", 600),
    "EchoPoolTimeouts": ("critical", 0),
    "EchoPoolLimitsExceedServer": ("warning", 300),
    "EchoTransactionOld": ("warning", 0),
    "EchoReplicaLagging": ("warning", 0),
    "EchoRedisMemoryHigh": ("warning", 300),
}
"""Severity of each alert rule, and for how many seconds its condition has to last before the alert fires."""


class Condition(msgspec.Struct, frozen=True):
    """The condition of an alert rule that is true now.

    `subject` distinguishes several conditions of a rule: the name of a pool, task or replica. `reason` is the
    error message of the server.
    """

    rule: str
    summary: str
    subject: str = ""
    reason: str = ""


class Alert(msgspec.Struct, frozen=True):
    """An alert: the condition of its rule has been true since the time `since`.

    The alert is pending until the waiting time of the rule is over, then it is firing.
    """

    rule: str
    severity: str
    state: Literal["firing", "pending"]
    summary: str
    since: datetime | None
    reason: str = ""


class AlertBook:
    """Remembers since when the condition of each alert has been true. Not thread safe."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], tuple[float, datetime]] = {}

    def update(self, conditions: Iterable[Condition], *, clock: float, moment: datetime) -> tuple[Alert, ...]:
        """Return the alerts of the conditions that are true now, firing ones first.

        `clock` is a monotonic time in seconds. `moment` is the date and time.
        """
        before, self._since = self._since, {}
        alerts = []
        for condition in conditions:
            key = (condition.rule, condition.subject)
            began, since = self._since[key] = before.get(key, (clock, moment))
            severity, wait_seconds = RULES[condition.rule]
            alerts.append(
                Alert(
                    rule=condition.rule,
                    severity=severity,
                    state="firing" if clock - began >= wait_seconds else "pending",
                    summary=condition.summary,
                    since=since,
                    reason=condition.reason,
                )
            )
        return sort_alerts(alerts)


def sort_alerts(alerts: Iterable[Alert]) -> tuple[Alert, ...]:
    """Return the alerts in the order in which pages show them: firing first, then critical before warning."""
    return tuple(
        sorted(alerts, key=lambda alert: (alert.state != "firing", alert.severity != "critical", alert.rule))
    )


def find_conditions(scrape: Scrape, pool_timeouts: Values) -> Iterator[Condition]:
    """Yield the conditions of alert rules that are true now.

    `pool_timeouts` has the timeouts per second of the connection pools, by role.
    """
    yield from _check_services(scrape)
    yield from _check_pools(scrape, pool_timeouts)
    yield from _check_database(scrape)
    yield from _check_memory(scrape)
    yield from _check_tasks(scrape)


def _check_services(scrape: Scrape) -> Iterator[Condition]:
    names = {"database": ("EchoDatabaseDown", "PostgreSQL"), "redis": ("EchoRedisDown", "Redis")}
    for (service,), up in scrape.sum_by("echo_service_up", "service").items():
        rule, name = names[service]
        reason = scrape.reasons.get(service, "")
        if not up:
            yield Condition(rule, f"{name} does not answer", reason=reason)
        elif service == "redis" and reason:
            yield Condition(rule, "Redis is used with limits", reason=reason)
    if scrape.total("echo_cache_breaker_open"):
        yield Condition(
            "EchoRedisDown", "A process does not use Redis: its circuit breaker is open", "breaker"
        )
    for (collector,), works in scrape.sum_by("echo_scrape_collector_success", "collector").items():
        if not works:
            yield Condition("EchoCollectorFailing", f"The collector {collector} fails", collector)


def _check_pools(scrape: Scrape, pool_timeouts: Values) -> Iterator[Condition]:
    limits = scrape.sum_by("echo_db_pool_max_connections", "role")
    for (role,), used in scrape.sum_by("echo_db_pool_connections", "role", state="used").items():
        limit = limits.get((role,), 0.0)
        if limit and used / limit > POOL_PART:
            text = f"The pool of {role} is nearly used up: {used:.0f} of {limit:.0f} connections"
            yield Condition("EchoPoolNearlyExhausted", text, role)
    for (role,), rate in pool_timeouts.items():
        if rate > 0:
            yield Condition("EchoPoolTimeouts", f"Callers of {role} get no connection", role)
    allowed = scrape.find("echo_pg_max_connections")
    total = sum(limits.values())
    if allowed and total > SERVER_CONNECTIONS_PART * allowed:
        text = f"Pools may ask for more connections than the server has: {total:.0f}, it has {allowed:.0f}"
        yield Condition("EchoPoolLimitsExceedServer", text)


def _check_database(scrape: Scrape) -> Iterator[Condition]:
    pending = scrape.total("echo_migrations_pending")
    if pending:
        yield Condition("EchoMigrationsPending", f"{pending:.0f} migrations are not applied")
    age = scrape.total("echo_pg_oldest_transaction_age_seconds")
    if age > TRANSACTION_SECONDS:
        yield Condition("EchoTransactionOld", f"A transaction has been open for {age:,.0f} s")
    for (replica,), lag in scrape.sum_by("echo_pg_replication_lag_seconds", "replica").items():
        if lag > LAG_SECONDS:
            yield Condition("EchoReplicaLagging", f"The replica {replica} is {lag:,.0f} s behind", replica)


def _check_memory(scrape: Scrape) -> Iterator[Condition]:
    used, limit = scrape.total("echo_redis_memory_used_bytes"), scrape.total("echo_redis_memory_max_bytes")
    if limit and used / limit > MEMORY_PART:
        yield Condition("EchoRedisMemoryHigh", f"Redis uses {format_share(used, limit)} of its memory")


def _check_tasks(scrape: Scrape) -> Iterator[Condition]:
    successes = scrape.sum_by("echo_task_last_success_timestamp_seconds", "task")
    for (task,), interval in scrape.sum_by("echo_task_interval_seconds", "task").items():
        late = scrape.taken_at.timestamp() - successes.get((task,), 0.0)
        # an interval of 0 means that the task was stopped on purpose
        if interval and late > LATE_INTERVALS * interval:
            yield Condition("EchoTaskLate", f"{task} is late by two intervals", task)
    if scrape.total("echo_audit_verification_timestamp_seconds") and not scrape.total("echo_audit_intact"):
        yield Condition("EchoAuditBroken", "The audit log was changed")
