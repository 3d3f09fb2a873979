"""The composition root: builds the database, the cache and the service from the settings.

Owns two more steps at the start of a program: it sets up the logs, and refuses command-line arguments.

Opening the service does not wait for PostgreSQL or Redis: a process can start while the servers are down, and
works as soon as they are up.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from core.cache import Cache
from core.cache.lsn_slots import LoadAfter, load_anywhere
from core.database import Database
from core.database.connector import Connector
from core.database.database_with_replicas import DatabaseWithReplicas
from core.database.process_lock import ProcessLock
from core.errors import SettingsError
from core.failover import KnownTimeline
from core.health import HealthEvaluator, describe_pool, read_pool
from core.logs import configure_logs
from core.metrics import Metrics, open_metrics
from core.metrics.names import APPLICATION_PREFIX, STACK_ROLES, Role, check_role
from core.records import PoolUse
from core.service import EnhancedDatabaseService
from core.service.email_encryption import UserEmails
from core.settings import Settings


def open_service(settings: Settings | None = None, *, role: Role = "job") -> EnhancedDatabaseService:
    """Open and return the service. Without `settings`, the settings are read from the environment.

    Does not wait for a server: the first call of the service connects to PostgreSQL, and a thread of the near
    cache connects to Redis. Use the service as a context manager, or call `close`.

    `role` is the name of the program in metrics and in pg_stat_activity. It consists of lower-case letters
    with single hyphens between words, such as `my-api`; for any other form, `InvalidInput` is raised. Raises
    `SettingsError` if a setting is wrong, or if METRICS_ROLES is set and does not list the role.
    """
    if settings is None:
        settings = Settings.load()
    elif not isinstance(settings, Settings):
        raise SettingsError(
            f"settings is a {type(settings).__name__}; give core.Settings(...), or nothing at all"
        )
    _check_listed(check_role(role), settings)
    metrics = open_metrics(role, settings.metrics_dir)
    name = f"{APPLICATION_PREFIX}{role}"
    timeline = KnownTimeline()
    database, load_after = _open_database(settings, name, metrics, timeline)

    def list_others() -> Iterable[PoolUse]:
        # the exporter reports the pools of all processes of its host, any other process only its own pool
        return map(read_pool, metrics.list_gauges()) if role == "exporter" else ()

    cache = Cache(
        settings,
        client_name=name,
        metrics=metrics,
        is_bypassed=database.is_cache_bypassed,
        load_after=load_after,
        timeline=timeline,
    )
    return EnhancedDatabaseService(
        database=database,
        cache=cache,
        emails=UserEmails(settings.read_keyring()),
        health=HealthEvaluator(
            settings,
            list_pools=lambda: [describe_pool(database.pool_stats()), *list_others()],
            clock=_read_clock,
            find_bypass=cache.find_bypass,
        ),
        metrics=metrics,
        clock=_read_clock,
    )


def open_process_lock(settings: Settings, key: int, *, role: Role) -> ProcessLock:
    """Return the advisory lock `key`, which only one process can hold at a time.

    The lock connects to PostgreSQL when it is first used.
    """
    return ProcessLock(
        Connector(settings, f"{APPLICATION_PREFIX}{role}"),
        key,
        timeout_seconds=settings.database_query_timeout / 1000,
    )


def _open_database(
    settings: Settings, name: str, metrics: Metrics, timeline: KnownTimeline
) -> tuple[Database, LoadAfter]:
    if settings.database_replica_urls is None:
        database = Database(settings, application_name=name, metrics=metrics, timeline=timeline)
        return database, load_anywhere
    replicated = DatabaseWithReplicas(settings, application_name=name, metrics=metrics, timeline=timeline)
    return replicated, replicated.load_after


def _check_listed(role: Role, settings: Settings) -> None:
    listed = settings.list_metrics_roles()
    if listed and role not in {*listed, *STACK_ROLES}:
        raise SettingsError(
            f"METRICS_ROLES is {settings.metrics_roles!r}, which does not list the role {role!r};"
            " add it, or leave METRICS_ROLES unset to allow any"
        )


def _read_clock() -> datetime:
    return datetime.now(UTC)


def refuse_arguments(arguments: Sequence[str], *, program: str) -> None:
    """Raise `SettingsError` if there are `arguments` on the command line of `program`.

    Only environment variables configure such a program.
    """
    if arguments:
        raise SettingsError(
            f"`python -m {program}` takes no arguments, {arguments[0]!r} included;"
            " set variables of the environment, which docs/settings.md and .env.example list"
        )


def configure_logging(settings: Settings) -> None:
    """Send the logs of this process to standard error with the configured level and format."""
    configure_logs(settings.log_level, settings.log_format)
