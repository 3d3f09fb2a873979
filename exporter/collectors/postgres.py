"""What PostgreSQL says of itself, as metrics.

Owns names and labels of `echo_pg_*`; the statements are in `core.queries.operations`.
"""

from collections.abc import Callable, Collection, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from core.database.bounded_connection import BoundedConnection, make_connector
from core.metric_names import CONNECTION_NAMES
from core.queries import operations
from core.settings import Settings
from exporter.collectors.lane import Collector, Lane
from exporter.collectors.statements import StatementCounters

CLIENT_NAME = "echo-markets-collector"
# A statement of these takes milliseconds; what takes longer waits behind a lock or hangs.
STATEMENT_SECONDS = 1.0
# Two that scrape the same exporter cost the server once.
BRIEF_SECONDS = 1.0
# These look at files and hundreds of statements, and change slowly.
LONG_SECONDS = 30.0
# Names come from the replicas' own configuration; more than a few would be a mistake there.
REPLICAS_SHOWN = 10


def open_postgres_lane(
    settings: Settings, operation_names: Collection[str], *, find_roles: Callable[[], Collection[str]]
) -> Lane[BoundedConnection]:
    """Return PostgreSQL's collectors on a connection of their own, which is opened when they run.

    `find_roles` returns the programs whose connections are counted by name.
    """
    statements = StatementCounters(operation_names)
    connector = make_connector(settings, CLIENT_NAME, limit_seconds=STATEMENT_SECONDS)
    return Lane(
        lambda: BoundedConnection(
            settings, CLIENT_NAME, limit_seconds=STATEMENT_SECONDS, connector=connector
        ),
        [
            Collector(
                "postgres_activity",
                lambda connection: collect_activity(connection, find_roles()),
                BRIEF_SECONDS,
            ),
            Collector("postgres_transactions", collect_transactions, BRIEF_SECONDS),
            Collector("postgres_replication", collect_replication, BRIEF_SECONDS),
            Collector("postgres_tables", collect_tables, LONG_SECONDS),
            Collector("postgres_statements", statements.collect, LONG_SECONDS),
        ],
    )


def collect_activity(connection: BoundedConnection, roles: Collection[str]) -> Iterator[Metric]:
    """Yield the server's connections of all databases, their limit and the oldest transaction."""
    connections = GaugeMetricFamily(
        "echo_pg_connections", "Client connections that the server has", labels=["application", "state"]
    )
    for labels, count in operations.count_connections(connection, [*CONNECTION_NAMES, *roles]).items():
        connections.add_metric(labels, count)
    yield connections
    yield GaugeMetricFamily(
        "echo_pg_max_connections",
        "Connections that the server allows",
        value=operations.find_max_connections(connection),
    )
    yield GaugeMetricFamily(
        "echo_pg_oldest_transaction_age_seconds",
        "Age of the oldest open transaction, 0 without any",
        value=operations.find_oldest_transaction_seconds(connection),
    )


def collect_transactions(connection: BoundedConnection) -> Iterator[Metric]:
    """Yield what this database committed and did not."""
    commits, rollbacks, deadlocks = operations.count_transactions(connection)
    yield CounterMetricFamily("echo_pg_commits", "Transactions committed", value=commits)
    yield CounterMetricFamily("echo_pg_rollbacks", "Transactions rolled back", value=rollbacks)
    yield CounterMetricFamily("echo_pg_deadlocks", "Deadlocks", value=deadlocks)


def collect_tables(connection: BoundedConnection) -> Iterator[Metric]:
    """Yield size and estimated rows of every table."""
    sizes = GaugeMetricFamily(
        "echo_pg_table_size_bytes", "Size of a table with its indexes and partitions", labels=["table"]
    )
    rows = GaugeMetricFamily(
        "echo_pg_table_rows", "Rows of a table by the server's estimate", labels=["table"]
    )
    for table in operations.list_tables(connection):
        sizes.add_metric([table.table], table.size_bytes + table.index_size_bytes)
        rows.add_metric([table.table], table.rows)
    yield sizes
    yield rows


def collect_replication(connection: BoundedConnection) -> Iterator[Metric]:
    """Yield how many replicas stream from this server, and how late they are."""
    replicas = operations.list_replicas(connection)
    yield GaugeMetricFamily(
        "echo_pg_replicas_connected", "Replicas that stream from this server", value=len(replicas)
    )
    lags = GaugeMetricFamily(
        "echo_pg_replication_lag_seconds", "How late a replica is with replaying", labels=["replica"]
    )
    for name in sorted(replicas)[:REPLICAS_SHOWN]:
        lags.add_metric([name], replicas[name])
    yield lags
