"""The names, labels and buckets of every metric that a process of the stack writes.

Owns the closed sets that labels come from. Counts nothing; `core.metrics` does.
"""

import re
from typing import Literal, get_args

from core.errors import InvalidInput
from core.metric_instruments import Counter, Distribution, Gauge, GaugeMode, Histogram
from core.metric_values import MetricWriter, Value

Role = str
"""What a program calls itself, the same in each of its processes."""
STACK_ROLES = ("dashboard", "exporter", "simulator", "job", "drill")
# What the stack calls connections beside the pools, and whatever is not its own.
CONNECTION_NAMES = ("collector", "health", "migrate")
RESERVED_ROLES = (*CONNECTION_NAMES, "other")
# No digits: a number of a process or a day in it would make a series for each.
ROLE_PATTERN = r"[a-z]+(?:-[a-z]+)*"
MAX_ROLE = 32
CloseReason = Literal["stale", "dead", "broken", "shutdown"]
Tier = Literal["near", "shared"]
Task = Literal["simulator", "warm_cache"]
"""What has to succeed again and again."""
Limiter = Literal["operator_actions", "sign_in"]
AuditedAction = Literal["clear_cache", "warm_cache", "close_session", "expire_quests"]
"""What an operator of the dashboard can do that is written down."""

WRITERS = "echo_metrics_writers"
# From a warm point read (0.1 ms) to the default query timeout (30 s).
SECONDS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


def check_role(role: object) -> Role:
    """Return a role that labels can have; raises `InvalidInput`."""
    if (
        not isinstance(role, str)
        or len(role) > MAX_ROLE
        or re.fullmatch(ROLE_PATTERN, role) is None
        or role in RESERVED_ROLES
    ):
        raise InvalidInput(
            f"role is {str(role)[: 2 * MAX_ROLE]!r}; give a program's name: at most {MAX_ROLE} lower-case"
            " letters with single hyphens between words, such as my-api,"
            f" and not one of {', '.join(RESERVED_ROLES)}"
        )
    return role


class Definitions:
    """Defines the metrics of one process in `writer`; most series carry its role."""

    def __init__(self, role: Role, writer: MetricWriter) -> None:
        """Raise `InvalidInput` for a role that is no name of a program."""
        self.role = check_role(role)
        self.writer = writer
        self._define_pool()
        self._define_operations()
        self._define_cache_reads()
        self._define_cache_changes()
        self._define_dashboard()
        self._define_tasks()
        self.metrics_writers = self._gauge(WRITERS, "Live processes that write metrics")

    def _gauge(self, name: str, text: str, *, mode: GaugeMode = "livesum") -> Value:
        return Gauge(self.writer, name, text, ["role"], mode=mode).labels(self.role)

    def _seconds(self, name: str, text: str) -> Distribution:
        return self._histogram(name, text, "role").labels(self.role)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(self.writer, name, text, labels, bounds=SECONDS_BUCKETS)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(self.writer, name, text, labels)

    def _define_pool(self) -> None:
        connections = Gauge(
            self.writer, "echo_db_pool_connections", "Connections held by pools", ["role", "state"]
        )
        self.pool_idle = connections.labels(self.role, "idle")
        self.pool_used = connections.labels(self.role, "used")
        self.pool_max = self._gauge("echo_db_pool_max_connections", "Connections that pools may hold")
        self.pool_pending = self._gauge("echo_db_pool_pending_requests", "Checkouts that wait")
        self.pool_wait_seconds = self._seconds("echo_db_pool_wait_seconds", "Wait for a checkout")
        self.pool_use_seconds = self._seconds("echo_db_pool_use_seconds", "Time a connection is held")
        self.pool_create_seconds = self._seconds("echo_db_pool_create_seconds", "Time to connect")
        timeouts = self._counter("echo_db_pool_timeouts_total", "Checkouts given up", "role")
        self.pool_timeouts = timeouts.labels(self.role)
        closed = self._counter("echo_db_pool_closed_total", "Connections closed", "role", "reason")
        # from the start: a series that begins at 1 shows no increase
        self._pool_closed = {reason: closed.labels(self.role, reason) for reason in get_args(CloseReason)}

    def _define_operations(self) -> None:
        self._operation_seconds = self._histogram(
            "echo_db_operation_duration_seconds", "Database part of a service call", "op", "role"
        )
        self._operation_errors = self._counter(
            "echo_db_operation_errors_total",
            "Service calls whose database part failed",
            *("op", "role", "sqlstate_class"),
        )

    def _define_cache_reads(self) -> None:
        tiers = ("cache", "tier", "role")
        self._cache_requests = self._counter("echo_cache_requests_total", "Values asked of a tier", *tiers)
        self._cache_hits = self._counter("echo_cache_hits_total", "Values a tier had", *tiers)
        self._cache_misses = self._counter("echo_cache_misses_total", "Values a tier did not have", *tiers)
        self._cache_bypasses = self._counter(
            "echo_cache_bypasses_total",
            "Values read past the shared tier",
            *("cache", "role", "reason"),
        )
        self._cache_samples = self._counter(
            "echo_cache_stale_read_samples_total", "Hits that were compared with the database", *tiers
        )
        self._cache_stale_reads = self._counter(
            "echo_cache_stale_reads_total",
            "Hits that were compared with the database and disagreed",
            *tiers,
        )
        stale = self._counter(
            "echo_cache_stale_served_total",
            "Last known values served because the database could not be asked",
            "role",
        )
        self.cache_stale_served = stale.labels(self.role)

    def _define_cache_changes(self) -> None:
        self._cache_invalidations = self._counter(
            "echo_cache_invalidations_total", "Keys dropped because the data changed", "cache", "role"
        )
        self._cache_refused = self._counter(
            "echo_cache_stale_fills_refused_total",
            "Fills refused because the data changed while they were loaded",
            *("cache", "role"),
        )
        self._cache_load_seconds = self._histogram("echo_cache_load_seconds", "What a miss costs", "cache")
        self.cache_breaker_open = self._gauge(
            "echo_cache_breaker_open", "1 while Redis is bypassed", mode="livemax"
        )

    def _define_dashboard(self) -> None:
        self._render_seconds = self._histogram(
            "echo_dashboard_render_seconds", "Time a page's script took", "page"
        )
        sessions = Gauge(self.writer, "echo_dashboard_sessions", "Browser sessions that are connected")
        self.dashboard_sessions = sessions.labels()
        requests = self._counter("echo_ratelimit_requests_total", "Requests that a limiter saw", "limiter")
        rejections = self._counter(
            "echo_ratelimit_rejections_total", "Requests that a limiter refused", "limiter"
        )
        limiters = get_args(Limiter)
        self._limited = {name: (requests.labels(name), rejections.labels(name)) for name in limiters}
        events = self._counter("echo_audit_events_total", "Operator actions written down", "action")
        failures = self._counter(
            "echo_audit_write_failures_total", "Operator actions that could not be written down", "action"
        )
        actions = get_args(AuditedAction)
        self._audited = {name: (events.labels(name), failures.labels(name)) for name in actions}

    def _define_tasks(self) -> None:
        # they outlive their writer: a task that died is late, and not gone
        self._task_success = Gauge(
            self.writer,
            "echo_task_last_success_timestamp_seconds",
            "When a task succeeded last",
            ["task"],
            mode="mostrecent",
        )
        self._task_interval = Gauge(
            self.writer,
            "echo_task_interval_seconds",
            "How often a task has to succeed; 0 once it was stopped on purpose",
            ["task"],
            mode="mostrecent",
        )
