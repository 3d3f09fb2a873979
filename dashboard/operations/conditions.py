"""What a reader should know of the present state when no Prometheus evaluates the alert rules.

Owns a simple reading of one scrape, with the limits of the rules but without their patience:
a condition shows at once. Pure functions.
"""

from collections.abc import Iterator
from datetime import datetime

from core.scrape import Scrape
from dashboard.operations.history import Values
from dashboard.operations.prometheus import Alert

POOL_PART = 0.8
SERVER_CONNECTIONS_PART = 0.9
MEMORY_PART = 0.9
TRANSACTION_SECONDS = 300
LAG_SECONDS = 30
LATE_INTERVALS = 2


def find_conditions(scrape: Scrape, pool_timeouts: Values) -> tuple[Alert, ...]:
    """Return what is not as it should be; `pool_timeouts` are checkouts given up per second by role."""
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
            yield _condition(name, severity, topic, scrape.reasons.get(service, ""))
    for (collector,), works in scrape.sum_by("echo_scrape_collector_success", "collector").items():
        if not works:
            yield _condition(
                f"The exporter's collector “{collector}” fails", "warning", "echocollectorfailing"
            )


def _check_pools(scrape: Scrape, pool_timeouts: Values) -> Iterator[Alert]:
    limits = scrape.sum_by("echo_db_pool_max_connections", "role")
    for (role,), used in scrape.sum_by("echo_db_pool_connections", "role", state="used").items():
        limit = limits.get((role,), 0.0)
        if limit and used / limit > POOL_PART:
            yield _condition(
                f"The {role}'s pool is nearly used up: {used:.0f} of {limit:.0f}",
                "warning",
                "echopoolnearlyexhausted",
            )
    for (role,), rate in pool_timeouts.items():
        if rate > 0:
            yield _condition(
                f"Calls of the {role} gave up waiting for a connection", "critical", "echopooltimeouts"
            )
    allowed = scrape.find("echo_pg_max_connections")
    total = sum(limits.values())
    if allowed and total > SERVER_CONNECTIONS_PART * allowed:
        text = f"The pools may open {total:.0f} of the server's {allowed:.0f} connections"
        yield _condition(text, "warning", "echopoollimitsexceedserver")


def _check_database(scrape: Scrape) -> Iterator[Alert]:
    pending = scrape.total("echo_migrations_pending")
    if pending:
        yield _condition(f"{pending:.0f} migrations are pending", "warning", "echomigrationspending")
    age = scrape.total("echo_pg_oldest_transaction_age_seconds")
    if age > TRANSACTION_SECONDS:
        yield _condition(f"A transaction has been open for {age:.0f} s", "warning", "echotransactionold")
    for (replica,), lag in scrape.sum_by("echo_pg_replication_lag_seconds", "replica").items():
        if lag > LAG_SECONDS:
            yield _condition(f"The replica {replica} is {lag:.0f} s behind", "warning", "echoreplicalagging")


def _check_redis(scrape: Scrape) -> Iterator[Alert]:
    if scrape.total("echo_service_up", service="redis") and "redis" in scrape.reasons:
        yield _condition(
            "Redis does less than it should", "warning", "echoredisdown", scrape.reasons["redis"]
        )
    if scrape.total("echo_cache_breaker_open"):
        yield _condition("A process bypasses Redis: its circuit breaker is open", "warning", "echoredisdown")
    used, limit = scrape.total("echo_redis_memory_used_bytes"), scrape.total("echo_redis_memory_max_bytes")
    if limit and used / limit > MEMORY_PART:
        yield _condition(f"Redis has used {used / limit:.0%} of its memory", "warning", "echoredismemoryhigh")


def _check_tasks(scrape: Scrape, now: datetime) -> Iterator[Alert]:
    intervals = scrape.sum_by("echo_task_interval_seconds", "task")
    for (task,), moment in scrape.sum_by("echo_task_last_success_timestamp_seconds", "task").items():
        interval = intervals.get((task,), 0.0)
        late = now.timestamp() - moment
        if interval and late > LATE_INTERVALS * interval:
            yield _condition(
                f"The task {task} is late: last done {late:.0f} s ago", "warning", "echotasklate"
            )


def _condition(name: str, severity: str, topic: str, summary: str = "") -> Alert:
    return Alert(name=name, severity=severity, state="seen", summary=summary, topic=topic, since=None)
