"""Metrics from PostgreSQL's statistics views: connections, transactions, replicas and tables.

Owns the SQL statements of these collectors and their `echo_pg_*` metrics. The statement that measures tables
is in `core.queries.server_statistics`, because the service uses it too.
"""

from collections.abc import Callable, Collection, Iterator

import psycopg2
from prometheus_client.core import Metric

from core.database.bounded_connection import BoundedConnection, BoundedConnector
from core.database.driver_errors import describe_refusal
from core.metrics.names import APPLICATION_PREFIX, CONNECTION_NAMES, OTHER, counter, gauge
from core.queries.server_statistics import Executor, list_tables
from core.settings import Settings
from exporter.collectors.runner import BRIEF_SECONDS, Collector, CollectorRunner, ServerAway
from exporter.collectors.statements import StatementCounters

CLIENT_NAME = f"{APPLICATION_PREFIX}collector"
# Timeout of a statement. A statement takes milliseconds unless it waits for a lock or the server hangs.
STATEMENT_SECONDS = 1.0
# Interval of collectors that are expensive and whose values change slowly: table sizes, and counters of
# statements.
LONG_SECONDS = 30.0
# Maximum number of replicas in the metrics. A replica chooses its own name, which becomes the value of a
# label.
MAX_REPLICAS = 10
STATES = ("active", "idle", "idle_in_transaction", "idle_in_transaction_aborted", OTHER)

CONNECTIONS = gauge("echo_pg_connections", "Client connections that the server has", "application", "state")
MAX_CONNECTIONS = gauge("echo_pg_max_connections", "Connections that the server allows")
OLDEST_TRANSACTION = gauge(
    "echo_pg_oldest_transaction_age_seconds", "Age of the oldest open transaction, 0 without any"
)
COMMITS = counter("echo_pg_commits_total", "Transactions committed")
ROLLBACKS = counter("echo_pg_rollbacks_total", "Transactions rolled back")
DEADLOCKS = counter("echo_pg_deadlocks_total", "Deadlocks")
TABLE_SIZE = gauge("echo_pg_table_size_bytes", "Size of a table with its indexes and partitions", "table")
TABLE_ROWS = gauge("echo_pg_table_rows", "Rows of a table by the server's estimate", "table")
REPLICAS = gauge("echo_pg_replicas_connected", "Replicas that stream from this server")
REPLICATION_LAG = gauge("echo_pg_replication_lag_seconds", "How late a replica is with replaying", "replica")

_ACTIVITY = """
    SELECT application_name, state, count(*)
    FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1, 2"""
_LIMITS = """
    SELECT current_setting('max_connections')::int,
           COALESCE(max(EXTRACT(epoch FROM clock_timestamp() - xact_start)), 0)::float8
    FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""
_TRANSACTIONS = """
    SELECT xact_commit, xact_rollback, deadlocks FROM pg_stat_database WHERE datname = current_database()"""
# A replica that has replayed all WAL has a lag of 0. Otherwise the lag is the replay lag, or the time since
# the last message of the replica if that time is longer, for example if the replica has stopped answering.
_REPLICAS = """
    SELECT application_name, CASE
        WHEN replay_lsn >= CASE WHEN pg_is_in_recovery() THEN sent_lsn ELSE pg_current_wal_lsn() END THEN 0
        ELSE EXTRACT(epoch FROM greatest(replay_lag, clock_timestamp() - reply_time))
    END::float8
    FROM pg_stat_replication WHERE state IN ('streaming', 'catchup')"""


def open_postgres_runner(
    settings: Settings, operations: Collection[str], *, find_roles: Callable[[], Collection[str]]
) -> CollectorRunner[BoundedConnection]:
    """Return the runner of the PostgreSQL collectors. It opens its own connection when it runs.

    `operations` are the names of the service's operations. `find_roles` returns the roles of processes,
    such as `dashboard` (not roles of PostgreSQL). Connections are counted by the role of their process.
    """
    connector = BoundedConnector(settings, CLIENT_NAME, limit_seconds=STATEMENT_SECONDS)

    def connect() -> BoundedConnection:
        try:
            return connector.open()
        except psycopg2.OperationalError as error:
            raise ServerAway(describe_refusal(error)) from None

    return CollectorRunner(
        connect,
        [
            Collector(
                "postgres_activity",
                lambda connection: collect_activity(connection, find_roles()),
                BRIEF_SECONDS,
            ),
            Collector("postgres_transactions", collect_transactions, BRIEF_SECONDS),
            Collector("postgres_replication", collect_replication, BRIEF_SECONDS),
            Collector("postgres_tables", collect_tables, LONG_SECONDS),
            Collector("postgres_statements", StatementCounters(operations).collect, LONG_SECONDS),
        ],
    )


def collect_activity(connection: Executor, roles: Collection[str]) -> Iterator[Metric]:
    """Yield the number of connections to all databases, the limit, and the age of the oldest transaction.

    `roles` are the roles of processes, such as `dashboard`, by which connections are counted.
    """
    yield CONNECTIONS.build(count_connections(connection, (*CONNECTION_NAMES, *roles)))
    [(max_connections, oldest_seconds)] = connection.execute_sql(_LIMITS).fetchall()
    yield MAX_CONNECTIONS.build(max_connections)
    yield OLDEST_TRANSACTION.build(oldest_seconds)


def count_connections(connection: Executor, applications: Collection[str]) -> dict[tuple[str, str], int]:
    """Return the number of connections by application and state, including zeros.

    `applications` are values of `application_name` without APPLICATION_PREFIX. Connections with another
    `application_name` count as `other`.
    """
    counts = {(application, state): 0 for application in (*applications, OTHER) for state in STATES}
    for application_name, state, count in connection.execute_sql(_ACTIVITY).fetchall():
        name = (application_name or "").removeprefix(APPLICATION_PREFIX)
        is_known = name != application_name and name in applications
        counts[name if is_known else OTHER, _format_state(state)] += count
    return counts


def _format_state(state: str | None) -> str:
    name = (state or "").replace(" (", "_").replace(")", "").replace(" ", "_")
    return name if name in STATES else OTHER


def collect_transactions(connection: Executor) -> Iterator[Metric]:
    """Yield how many commits, rollbacks and deadlocks this database had since its statistics were reset."""
    [counts] = connection.execute_sql(_TRANSACTIONS).fetchall()
    for definition, count in zip((COMMITS, ROLLBACKS, DEADLOCKS), counts, strict=True):
        yield definition.build(count)


def collect_tables(connection: Executor) -> Iterator[Metric]:
    """Yield the size and the estimated number of rows of every table."""
    tables = list_tables(connection)
    yield TABLE_SIZE.build({(each.table,): each.size_bytes + each.index_size_bytes for each in tables})
    yield TABLE_ROWS.build({(each.table,): each.rows for each in tables})


def collect_replication(connection: Executor) -> Iterator[Metric]:
    """Yield the number of replicas that stream from this server, and the replication lag of each replica."""
    lags: dict[tuple[str], float] = {}
    for name, seconds in connection.execute_sql(_REPLICAS).fetchall():
        lags[name,] = max(lags.get((name,), 0.0), seconds or 0.0)
    yield REPLICAS.build(len(lags))
    yield REPLICATION_LAG.build(dict(sorted(lags.items())[:MAX_REPLICAS]))
