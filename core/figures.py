"""Health, pools, caches and operations as tables for a terminal.

Owns what `echo-markets health` and `echo-markets stats` print and the status that they exit
with. All of it comes from one scrape: the exporter's of the whole fleet, or one that is made of
this process's own metrics and checks when there is no exporter.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.errors import SettingsError
from core.http_client import FetchFailed
from core.scrape import Sample, Scrape, estimate_quantile, read_scrape
from core.service import EnhancedDatabaseService
from core.settings import Settings, redact
from core.stack_identity import StackIdentity, describe_database

# Beyond 1, so that a script can let a stack pass that serves, but not as it should.
EXIT_STATUSES = {"healthy": 0, "degraded": 3}
UNHEALTHY = 1

OPERATION = "echo_db_operation_duration_seconds"
OPERATIONS_SHOWN = 20


def read_fleet(settings: Settings, open_own: Callable[[], EnhancedDatabaseService]) -> tuple[Scrape, str]:
    """Return the exporter's scrape, or else this process's own, and where it is from.

    Without EXPORTER_URL the exporter of the settings' own stack is meant: raises `SettingsError` when
    another stack's answers there.
    """
    url = settings.find_exporter_url()
    try:
        scrape = read_scrape(url)
    except FetchFailed as error:
        why = f"the exporter gave none: {error}"
    else:
        if scrape.stack is not None or settings.exporter_url is not None:
            check_stack(scrape.stack, settings)
            return scrape, f"the exporter of stack {scrape.stack or 'unknown'}, all processes"
        why = f"what answers at {redact(url)} is no exporter of Echo Markets"
    with open_own() as service:
        return scrape_own(service), f"this process alone; {why}"


def check_stack(answering: StackIdentity | None, settings: Settings) -> None:
    """Raise `SettingsError` when an exporter that EXPORTER_URL does not name is another stack's."""
    own = settings.identify_stack()
    if settings.exporter_url is not None or answering is None or answering.is_same(own):
        return
    database = describe_database(settings.database_url.get_secret_value())
    raise SettingsError(
        f"the exporter at {settings.find_exporter_url()} belongs to the stack {answering}, and these settings"
        f" to the stack {own} on the database {database}; start that one, set EXPORTER_PORT to where its"
        " exporter listens, or name the exporter that is meant with EXPORTER_URL"
    )


def scrape_own(service: EnhancedDatabaseService) -> Scrape:
    """Return this process's metrics and what its checks find, in the exporter's names."""
    health = service.health()
    service.metrics.publish()
    own = [
        Sample(item.name, item.labels, item.value)
        for family in service.metrics.registry.collect()
        for item in family.samples
    ]
    own.append(Sample("echo_health_status", {"status": health.status}, 1.0))
    checks = [("database", health.database, health.database_seconds)]
    if health.redis_enabled:
        checks.append(("redis", health.redis, health.redis_seconds))
    for name, state, seconds in checks:
        own.append(Sample("echo_service_up", {"service": name}, float(state != "unhealthy")))
        own.append(Sample("echo_service_check_duration_seconds", {"service": name}, seconds))
    if health.migrations_pending is not None:
        own.append(Sample("echo_migrations_pending", {}, float(health.migrations_pending)))
    reasons = {"database": health.database_reason, "redis": health.redis_reason}
    return Scrape(
        own,
        taken_at=datetime.now(UTC),
        reasons={name: reason for name, reason in reasons.items() if reason},
    )


def show_health(scrape: Scrape, source: str, console: Console) -> int:
    """Print the state of each service; return the exit status: 0 healthy, 3 degraded, 1 anything else."""
    status = scrape.find_status()
    table = Table(box=None, show_header=False)
    table.add_row("status", status or "unknown")
    for (name,), up in scrape.sum_by("echo_service_up", "service").items():
        seconds = scrape.total("echo_service_check_duration_seconds", service=name)
        table.add_row(name, f"{'up' if up else 'down'}, {_milliseconds(seconds)}")
        if name in scrape.reasons:
            # OpenSSL's words begin with a bracket
            table.add_row("", escape(scrape.reasons[name]))
    if ("redis",) not in scrape.sum_by("echo_service_up", "service"):
        table.add_row("redis", "disabled")
    pending = scrape.find("echo_migrations_pending")
    table.add_row("migrations", "unknown" if pending is None else f"{pending:.0f} pending")
    if scrape.total("echo_cache_breaker_open"):
        table.add_row("cache", "bypassed: the circuit breaker is open")
    for row in _list_pools(scrape):
        table.add_row(f"pool of {row[0]}", f"{row[1]} of {row[3]} in use, {row[4]} waiting")
    _print(console, scrape, source, table)
    return EXIT_STATUSES.get(status or "", UNHEALTHY)


def show_stats(scrape: Scrape, source: str, console: Console) -> int:
    """Print pools, caches and operations; return the exit status of the health."""
    pools = _table("pool", "in use", "idle", "limit", "waiting", "timeouts", rows=_list_pools(scrape))
    caches = _table("cache", "tier", "requests", "hits", "bypasses", rows=_list_caches(scrape))
    operations = _table(
        "operation", "calls", "errors", "mean", "p50", "p95", "p99", rows=_list_operations(scrape)
    )
    _print(console, scrape, source, pools, caches, operations)
    return EXIT_STATUSES.get(scrape.find_status() or "", UNHEALTHY)


def _list_pools(scrape: Scrape) -> list[tuple[str, ...]]:
    limits = scrape.sum_by("echo_db_pool_max_connections", "role")
    return [
        (
            role,
            _count(scrape.total("echo_db_pool_connections", role=role, state="used")),
            _count(scrape.total("echo_db_pool_connections", role=role, state="idle")),
            _count(limits[role,]),
            _count(scrape.total("echo_db_pool_pending_requests", role=role)),
            _count(scrape.total("echo_db_pool_timeouts_total", role=role)),
        )
        for role in sorted(role for (role,) in limits)
    ]


def _list_caches(scrape: Scrape) -> list[tuple[str, ...]]:
    hits = scrape.sum_by("echo_cache_hits_total", "cache", "tier")
    bypasses = scrape.sum_by("echo_cache_bypasses_total", "cache")
    return [
        (
            cache,
            tier,
            _count(requests),
            f"{hits.get((cache, tier), 0.0) / requests:.1%}",
            _count(bypasses.get((cache,), 0.0)) if tier == "shared" else "",
        )
        for (cache, tier), requests in sorted(
            scrape.sum_by("echo_cache_requests_total", "cache", "tier").items()
        )
        if requests
    ]


def _list_operations(scrape: Scrape) -> list[tuple[str, ...]]:
    """Return the operations that took most time in all, since the first process began."""
    seconds = scrape.sum_by(f"{OPERATION}_sum", "op")
    calls = scrape.sum_by(f"{OPERATION}_count", "op")
    errors = scrape.sum_by("echo_db_operation_errors_total", "op")
    largest = sorted((key for key in calls if calls[key]), key=lambda key: seconds[key], reverse=True)
    rows = []
    for key in largest[:OPERATIONS_SHOWN]:
        buckets = read_buckets(scrape, key[0])
        quantiles = [_milliseconds(estimate_quantile(part, buckets)) for part in (0.5, 0.95, 0.99)]
        mean = _milliseconds(seconds[key] / calls[key])
        rows.append((key[0], _count(calls[key]), _count(errors.get(key, 0.0)), mean, *quantiles))
    return rows


def read_buckets(scrape: Scrape, operation: str) -> dict[float, float]:
    """Return how many calls of an operation took up to each bound, in seconds."""
    sums = scrape.sum_by(f"{OPERATION}_bucket", "le", op=operation)
    return {float(bound): count for (bound,), count in sums.items()}


def _table(*names: str, rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(box=None)
    for name in names:
        is_text = name in {"pool", "cache", "tier", "operation"}
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _print(console: Console, scrape: Scrape, source: str, *tables: Table) -> None:
    for table in tables:
        console.print(table)
        if len(tables) > 1:
            console.print()
    console.print(
        f"as of {scrape.taken_at:%Y-%m-%d %H:%M:%S} UTC, from {source}", highlight=False, soft_wrap=True
    )


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:,.1f} ms"
