"""Every metric that a process of the stack writes: name, kind, labels, help text.

Owns these names, and the closed sets from which label values come. `core.metrics.registry` does the
counting. The exporter's collectors define their own metrics with the functions of this module.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from core.errors import InvalidInput

Role = str
"""The name that a program gives itself, the same in each of its processes."""
STACK_ROLES = ("dashboard", "exporter", "simulator", "job", "drill")
# Names of the stack's connections outside the pools.
CONNECTION_NAMES = ("collector", "health", "migrate")
OTHER = "other"
"""The label value for everything that is not in a closed set."""
APPLICATION_PREFIX = "echo-markets-"
"""The name of each connection to PostgreSQL and Redis is this prefix and the role of the process."""
RESERVED_ROLES = (*CONNECTION_NAMES, OTHER)
# No digits: a role with a process id or a date would create new series again and again.
ROLE_PATTERN = r"[a-z]+(?:-[a-z]+)*"
MAX_ROLE = 32
CloseReason = Literal["stale", "dead", "broken", "shutdown"]
Tier = Literal["near", "shared"]
ReadReason = Literal["replayed", "current", "unknown", "behind", "conflict", "unavailable", "error"]
"""Why a read ran on a replica (`replayed`: it has all required commits) or on the primary (all others)."""
Task = Literal["simulator", "warm_cache", "seal_audit_log"]
"""A task that must succeed regularly."""
Limiter = Literal["pages", "downloads", "sign_in", "operator_actions", "exporter", "connections", "messages"]
AuditedAction = Literal["clear_cache", "warm_cache", "close_session", "expire_quests", "sign_in", "sign_out"]
"""An action of a person on the dashboard that is written to the audit log."""
HealthStatus = Literal["healthy", "degraded", "unhealthy"]

Labels = TypeVar("Labels", bound=Sequence[str])
Kind = Literal["counter", "gauge", "histogram"]
# How the values of several live processes are merged: `livesum` adds them, `livemax` takes the largest, and
# `mostrecent` takes the newest. Only a `mostrecent` value is kept after its process has ended.
GaugeMode = Literal["livesum", "livemax", "mostrecent"]
# Upper bounds of the buckets in seconds. A warm read of one row takes 0.1 ms; the query timeout is 30 s.
SECONDS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


def check_role(role: object) -> Role:
    """Return `role` if it can be a label value. Otherwise raise `InvalidInput`."""
    if (
        not isinstance(role, str)
        or len(role) > MAX_ROLE
        or re.fullmatch(ROLE_PATTERN, role) is None
        or role in RESERVED_ROLES
    ):
        shown = repr(role[: 2 * MAX_ROLE]) if isinstance(role, str) else f"a {type(role).__name__}"
        raise InvalidInput(
            f"role is {shown}; give a program's name: at most {MAX_ROLE} lower-case"
            " letters with single hyphens between words, such as my-api,"
            f" and not one of {', '.join(RESERVED_ROLES)}"
        )
    return role


@dataclass(frozen=True)
class Definition:
    """One metric. Histograms have the buckets of `SECONDS_BUCKETS`."""

    kind: Kind
    name: str
    text: str
    labels: tuple[str, ...] = ()
    mode: GaugeMode = "livesum"

    def build(self, values: float | Mapping[Labels, float]) -> Metric:
        """Return the metric with its values. `values` is a number, or maps label values to numbers."""
        family_type = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = family_type(self.name, self.text, labels=self.labels)
        if isinstance(values, Mapping):
            for labels, value in values.items():
                family.add_metric(labels, value)
        else:
            family.add_metric((), values)
        return family


def counter(name: str, text: str, *labels: str) -> Definition:
    """Define a number that only grows. `name` must end with `_total`."""
    return Definition("counter", name, text, labels)


def gauge(name: str, text: str, *labels: str, mode: GaugeMode = "livesum") -> Definition:
    """Define a number that goes up and down. By default the values of live processes are added."""
    return Definition("gauge", name, text, labels, mode)


def histogram(name: str, text: str, *labels: str) -> Definition:
    """Define a distribution of seconds."""
    return Definition("histogram", name, text, labels)


POOL_CONNECTIONS = gauge("echo_db_pool_connections", "Connections held by pools", "role", "state")
POOL_MAX = gauge("echo_db_pool_max_connections", "Connections that pools may hold", "role")
POOL_PENDING = gauge("echo_db_pool_pending_requests", "Checkouts that wait", "role")
POOL_WAIT = histogram("echo_db_pool_wait_seconds", "Wait for a checkout", "role")
POOL_USE = histogram("echo_db_pool_use_seconds", "Time a connection is held", "role")
POOL_CREATE = histogram("echo_db_pool_create_seconds", "Time to connect", "role")
POOL_TIMEOUTS = counter("echo_db_pool_timeouts_total", "Checkouts given up", "role")
POOL_CLOSED = counter("echo_db_pool_closed_total", "Connections closed", "role", "reason")

OPERATION_SECONDS = histogram(
    "echo_db_operation_duration_seconds", "Database part of a service call", "op", "role"
)
OPERATION_ERRORS = counter(
    "echo_db_operation_errors_total",
    "Service calls whose database part failed",
    *("op", "role", "sqlstate_class"),
)

READS = counter("echo_db_reads_total", "Reads that could run on a replica", "server", "reason", "role")
REPLICA_LAG = gauge(
    "echo_db_replica_lag_seconds",
    "How far a replica is behind the primary",
    "replica",
    "role",
    mode="livemax",
)
REPLICA_OUT = gauge(
    "echo_db_replica_out", "1 while a replica is not read from", "replica", "role", mode="livemax"
)

CACHE_REQUESTS = counter("echo_cache_requests_total", "Values asked of a tier", "cache", "tier", "role")
CACHE_HITS = counter("echo_cache_hits_total", "Values a tier had", "cache", "tier", "role")
CACHE_MISSES = counter("echo_cache_misses_total", "Values a tier did not have", "cache", "tier", "role")
CACHE_BYPASSES = counter(
    "echo_cache_bypasses_total", "Values read past the shared tier", "cache", "role", "reason"
)
CACHE_SAMPLES = counter(
    "echo_cache_stale_read_samples_total",
    "Hits that were compared with the database",
    *("cache", "tier", "role"),
)
CACHE_STALE_READS = counter(
    "echo_cache_stale_reads_total",
    "Hits that were compared with the database and disagreed",
    *("cache", "tier", "role"),
)
CACHE_STALE_SERVED = counter(
    "echo_cache_stale_served_total",
    "Last known values served because the database could not be asked",
    "role",
)
CACHE_INVALIDATIONS = counter(
    "echo_cache_invalidations_total", "Keys dropped because the data changed", "cache", "role"
)
CACHE_FILLS_REFUSED = counter(
    "echo_cache_stale_fills_refused_total",
    "Fills refused because the data changed while they were loaded",
    *("cache", "role"),
)
CACHE_LOAD = histogram("echo_cache_load_seconds", "What a miss costs", "cache")
CACHE_TOPOLOGY = gauge(
    "echo_cache_topology",
    "1 for how REDIS_URL reaches the primary: single, sentinel or cluster",
    *("topology", "role"),
    mode="livemax",
)
CACHE_PRIMARY_CHANGES = counter(
    "echo_cache_primary_changes_total", "Moves of a process to another primary of Redis", "role"
)
CACHE_BREAKER_OPEN = gauge("echo_cache_breaker_open", "1 while Redis is bypassed", "role", mode="livemax")

DASHBOARD_RENDER = histogram("echo_dashboard_render_seconds", "Time a page's script took", "page")
DASHBOARD_SESSIONS = gauge("echo_dashboard_sessions", "Browser sessions that are connected")
LIMITER_REQUESTS = counter("echo_ratelimit_requests_total", "Requests that a limiter saw", "limiter")
LIMITER_REJECTIONS = counter("echo_ratelimit_rejections_total", "Requests that a limiter refused", "limiter")
AUDIT_EVENTS = counter("echo_audit_events_total", "Actions of people written down", "action")
AUDIT_FAILURES = counter(
    "echo_audit_write_failures_total", "Actions of people that could not be written down", "action"
)
# The next four gauges are kept after their process has ended, so that an alert fires if the process of a task
# died and the task is late.
AUDIT_INTACT = gauge(
    "echo_audit_intact",
    "1 when the latest verification found the audit log intact, else 0",
    mode="mostrecent",
)
AUDIT_VERIFIED = gauge(
    "echo_audit_verification_timestamp_seconds", "When the audit log was verified last", mode="mostrecent"
)
TASK_SUCCESS = gauge(
    "echo_task_last_success_timestamp_seconds", "When a task succeeded last", "task", mode="mostrecent"
)
TASK_INTERVAL = gauge(
    "echo_task_interval_seconds",
    "How often a task has to succeed; 0 once it was stopped on purpose",
    "task",
    mode="mostrecent",
)
WRITERS = gauge("echo_metrics_writers", "Live processes that write metrics", "role")

# No process writes the metrics below. The exporter builds them from a health evaluation.
SERVICE_UP = gauge("echo_service_up", "1 while the service answers; absent when disabled", "service")
SERVICE_CHECK_SECONDS = gauge("echo_service_check_duration_seconds", "Time the check took", "service")
HEALTH_STATUS = gauge("echo_health_status", "1 for the present status, 0 for the others", "status")
MIGRATIONS_APPLIED = gauge("echo_migrations_applied", "Migrations applied")
MIGRATIONS_PENDING = gauge("echo_migrations_pending", "Migrations not applied")

CLOSED_LABELS: Mapping[Definition, tuple[str, ...]] = {
    POOL_CLOSED: get_args(CloseReason),
    LIMITER_REQUESTS: get_args(Limiter),
    LIMITER_REJECTIONS: get_args(Limiter),
    AUDIT_EVENTS: get_args(AuditedAction),
    AUDIT_FAILURES: get_args(AuditedAction),
}
"""Counters whose series all exist from the start: Prometheus sees no increase if a series begins at 1."""
