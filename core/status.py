"""Prints the state of the running stack as tables: `echo-markets health` and `echo-markets stats`.

Owns the tables and the exit status. All values come from one scrape. A scrape of the exporter covers all
processes. Without an exporter, the scrape covers only this process.
"""

from collections.abc import Callable, Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.errors import SettingsError
from core.health import scrape_own
from core.http_client import FetchFailed
from core.metrics import names
from core.metrics.scrape import Scrape, estimate_quantile, read_scrape
from core.service import EnhancedDatabaseService
from core.settings import Settings, redact
from core.settings.stack_identity import StackIdentity, describe_database

# A degraded stack still serves requests. It has its own exit status, so that a script can accept it.
EXIT_STATUSES = {"healthy": 0, "degraded": 3}
UNHEALTHY = 1

OPERATIONS_SHOWN = 20


def read_fleet(settings: Settings, open_own: Callable[[], EnhancedDatabaseService]) -> tuple[Scrape, str]:
    """Return a scrape, and a text that names its source.

    The source is the exporter. If it does not answer, the source is this process, with the service that
    `open_own` opens. Raises `SettingsError` if the exporter belongs to another stack, and EXPORTER_URL is not
    set.
    """
    url = settings.find_exporter_url()
    try:
        scrape = read_scrape(url, authority=settings.exporter_ca)
    except FetchFailed as error:
        why = f"the exporter gave none: {error}"
    else:
        if scrape.stack is not None or settings.exporter_url is not None:
            _check_stack(scrape.stack, settings)
            return scrape, f"the exporter of stack {scrape.stack or 'unknown'}, all processes"
        why = f"what answers at {redact(url)} is no exporter of Echo Markets"
    with open_own() as service:
        return scrape_own(service.metrics, service.health()), f"this process alone; {why}"


def _check_stack(answering: StackIdentity | None, settings: Settings) -> None:
    """Raise `SettingsError` if the exporter of another stack has answered, and EXPORTER_URL is not set.

    `answering` is the stack of the exporter, or None if it is unknown.
    """
    own = settings.identify_stack()
    if settings.exporter_url is not None or answering is None or answering.is_same(own):
        return
    database = describe_database(settings.database_url.get_secret_value())
    raise SettingsError(
        f"the exporter at {settings.find_exporter_url()} belongs to the stack {answering}, and these settings"
        f" to the stack {own} on the database {database}; start that stack, set EXPORTER_PORT to the port of"
        " its exporter, or set EXPORTER_URL to the exporter that is meant"
    )


def show_health(scrape: Scrape, source: str, console: Console) -> int:
    """Print the state of each service; return the exit status: 0 healthy, 3 degraded, 1 anything else."""
    status = scrape.find_status()
    table = Table(box=None, show_header=False)
    table.add_row("status", status or "unknown")
    for (name,), up in scrape.sum_by(names.SERVICE_UP.name, "service").items():
        seconds = scrape.total(names.SERVICE_CHECK_SECONDS.name, service=name)
        table.add_row(name, f"{'up' if up else 'down'}, {_milliseconds(seconds)}")
        if name in scrape.reasons:
            # a message of OpenSSL begins with a bracket, which rich would take for markup
            table.add_row("", escape(scrape.reasons[name]))
    if ("redis",) not in scrape.sum_by(names.SERVICE_UP.name, "service"):
        table.add_row("redis", "disabled")
    pending = scrape.find(names.MIGRATIONS_PENDING.name)
    table.add_row("migrations", "unknown" if pending is None else f"{pending:.0f} pending")
    if scrape.total(names.CACHE_BREAKER_OPEN.name):
        table.add_row("cache", "bypassed: the circuit breaker is open")
    for row in _list_pools(scrape):
        table.add_row(f"pool of {row[0]}", f"{row[1]} of {row[3]} in use, {row[4]} waiting")
    _print(console, scrape, source, table)
    return EXIT_STATUSES.get(status or "", UNHEALTHY)


def show_stats(scrape: Scrape, source: str, console: Console) -> int:
    """Print pools, caches and operations; return the same exit status as `show_health`."""
    pools = _table("pool", "in use", "idle", "limit", "waiting", "timeouts", rows=_list_pools(scrape))
    caches = _table("cache", "tier", "requests", "hits", "bypasses", rows=_list_caches(scrape))
    operations = _table(
        "operation", "calls", "errors", "mean", "p50", "p95", "p99", rows=_list_operations(scrape)
    )
    _print(console, scrape, source, pools, caches, operations)
    return EXIT_STATUSES.get(scrape.find_status() or "", UNHEALTHY)


def _list_pools(scrape: Scrape) -> list[tuple[str, ...]]:
    limits = scrape.sum_by(names.POOL_MAX.name, "role")
    return [
        (
            role,
            _count(scrape.total(names.POOL_CONNECTIONS.name, role=role, state="used")),
            _count(scrape.total(names.POOL_CONNECTIONS.name, role=role, state="idle")),
            _count(limits[role,]),
            _count(scrape.total(names.POOL_PENDING.name, role=role)),
            _count(scrape.total(names.POOL_TIMEOUTS.name, role=role)),
        )
        for role in sorted(role for (role,) in limits)
    ]


def _list_caches(scrape: Scrape) -> list[tuple[str, ...]]:
    hits = scrape.sum_by(names.CACHE_HITS.name, "cache", "tier")
    bypasses = scrape.sum_by(names.CACHE_BYPASSES.name, "cache")
    return [
        (
            cache,
            tier,
            _count(requests),
            f"{hits.get((cache, tier), 0.0) / requests:.1%}",
            _count(bypasses.get((cache,), 0.0)) if tier == "shared" else "",
        )
        for (cache, tier), requests in sorted(
            scrape.sum_by(names.CACHE_REQUESTS.name, "cache", "tier").items()
        )
        if requests
    ]


def _list_operations(scrape: Scrape) -> list[tuple[str, ...]]:
    """Return the rows of the operations that took the most time in total, at most OPERATIONS_SHOWN."""
    duration = names.OPERATION_SECONDS.name
    seconds = scrape.sum_by(f"{duration}_sum", "op")
    calls = scrape.sum_by(f"{duration}_count", "op")
    errors = scrape.sum_by(names.OPERATION_ERRORS.name, "op")
    largest = sorted((key for key in calls if calls[key]), key=lambda key: seconds[key], reverse=True)
    rows = []
    for key in largest[:OPERATIONS_SHOWN]:
        counts = scrape.sum_by(f"{duration}_bucket", "le", op=key[0])
        buckets = {float(bound): count for (bound,), count in counts.items()}
        quantiles = [_milliseconds(estimate_quantile(part, buckets)) for part in (0.5, 0.95, 0.99)]
        mean = _milliseconds(seconds[key] / calls[key])
        rows.append((key[0], _count(calls[key]), _count(errors.get(key, 0.0)), mean, *quantiles))
    return rows


def _table(*headings: str, rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(box=None)
    for name in headings:
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
