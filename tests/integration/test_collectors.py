"""Tests of the exporter's collectors on real servers: each metric has the server's value."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import psycopg2.extras
import pytest
from starlette.testclient import TestClient

from core import EnhancedDatabaseService, Settings
from core.database.bounded_connection import BoundedConnection, BoundedConnector
from core.metrics.scrape import list_samples
from core.queries import server_statistics
from core.testing import PostgresServer
from exporter.collectors import postgres
from exporter.server import build_app, open_runners
from tests.conftest import Execute
from tests.exporter_server import LOCAL_URL
from tests.fleet_reading import find_sample
from tests.integration.test_exporter import parse, value
from tests.market_days import import_days
from tests.patience import wait_until


@pytest.fixture
def connection(settings: Settings) -> Iterator[BoundedConnection]:
    """Yield a connection as collectors open it."""
    connection = BoundedConnector(settings, "echo-markets-collector", limit_seconds=5).open()
    yield connection
    connection.close()


@pytest.fixture
def client(service: EnhancedDatabaseService, settings: Settings) -> Iterator[TestClient]:
    """Yield a client of an exporter whose collectors query the servers."""
    with TestClient(
        build_app(service, runners=open_runners(settings, service.metrics)), base_url=LOCAL_URL
    ) as client:
        yield client


def test_a_scrape_has_every_server_metric(client: TestClient) -> None:
    """A scrape has each documented server metric, and the success of each collector.

    It has no statement metrics, because `pg_stat_statements` is not installed.
    """
    text = client.get("/metrics").text
    found = parse(text)
    for name in (
        "echo_pg_connections",
        "echo_pg_max_connections",
        "echo_pg_commits",
        "echo_pg_rollbacks",
        "echo_pg_deadlocks",
        "echo_pg_oldest_transaction_age_seconds",
        "echo_pg_table_size_bytes",
        "echo_pg_table_rows",
        "echo_pg_replicas_connected",
        "echo_migrations_applied",
        "echo_migrations_pending",
        "echo_redis_memory_used_bytes",
        "echo_redis_memory_max_bytes",
        "echo_redis_keyspace_hits",
        "echo_redis_keyspace_misses",
        "echo_redis_evicted_keys",
    ):
        assert found[name].samples, name
        assert found[name].documentation, name
    names = {each.labels["collector"] for each in found["echo_scrape_collector_success"].samples}
    for name in names:
        assert value(text, "echo_scrape_collector_success", collector=name) == 1, name
        assert value(text, "echo_scrape_collector_duration_seconds", collector=name) < 5
        age = time.time() - value(
            text, "echo_scrape_collector_last_success_timestamp_seconds", collector=name
        )
        assert 0 <= age < 30, name
    assert names >= {"processes", "health", "build", "redis", "postgres_activity", "postgres_tables"}
    assert "echo_pg_statement_calls_total" not in found


def test_connections_are_counted_by_application_and_state(
    connection: BoundedConnection, settings: Settings, database_url: str
) -> None:
    """Connections are counted by application and state. Unknown applications are counted as `other`."""
    applications = ("collector", "dashboard", "my-api")
    before = postgres.count_connections(connection, applications)
    with contextlib.ExitStack() as opened:
        for name in (
            "echo-markets-dashboard",
            "echo-markets-dashboard",
            "echo-markets-my-api",
            "psql",
            "dashboard",
            "echo-markets-x",
        ):
            raw = psycopg2.connect(database_url, application_name=name)
            opened.callback(raw.close)
            with raw.cursor() as cursor:
                cursor.execute("SELECT 1")
        wait_until(
            lambda: (
                count_added(before, postgres.count_connections(connection, applications))
                == {
                    ("dashboard", "idle_in_transaction"): 2,
                    ("my-api", "idle_in_transaction"): 1,
                    ("other", "idle_in_transaction"): 3,
                }
            ),
            "three sessions of others, two of a dashboard and one of an adopter's program",
        )
    assert before["collector", "active"] == 1
    assert len(before) == (len(applications) + 1) * len(postgres.STATES)


def count_added(
    before: dict[tuple[str, str], int], after: dict[tuple[str, str], int]
) -> dict[tuple[str, str], int]:
    """Return the increase of each count that has increased."""
    return {key: count - before[key] for key, count in after.items() if count > before[key]}


def test_the_oldest_transaction_has_an_age(connection: BoundedConnection, database_url: str) -> None:
    """The age of the oldest transaction counts another session's transaction, not the collector's own."""
    with contextlib.closing(psycopg2.connect(database_url)) as raw, raw.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.3)")
        found = find_sample(postgres.collect_activity(connection, ()), postgres.OLDEST_TRANSACTION.name)
        assert found is not None
        assert 0.3 <= found < 60


def count_transactions(connection: BoundedConnection) -> tuple[float, ...]:
    """Return the numbers of commits, rollbacks and deadlocks."""
    families = list(postgres.collect_transactions(connection))
    return tuple(item.value for item in list_samples(families))


def list_lags(connection: BoundedConnection) -> dict[str, float]:
    """Return the lag of each replica. Assert that the metric of their number agrees."""
    families = list(postgres.collect_replication(connection))
    name = postgres.REPLICATION_LAG.name
    lags = {item.labels["replica"]: item.value for item in list_samples(families) if item.name == name}
    assert find_sample(families, postgres.REPLICAS.name) == len(lags)
    return lags


def test_transactions_are_counted(connection: BoundedConnection, execute: Execute) -> None:
    """Five commits and five rollbacks increase the counters by at least five."""
    commits, rollbacks, deadlocks = count_transactions(connection)
    for _ in range(5):
        execute("SELECT 1")
        with contextlib.suppress(psycopg2.Error):
            execute("SELECT 1 / 0")
    # a session may report its statistics later; this function makes it report them now
    execute("SELECT pg_stat_force_next_flush()")
    wait_until(
        lambda: count_transactions(connection)[:2] >= (commits + 5, rollbacks + 5),
        "five commits and rollbacks",
        20.0,
    )
    assert count_transactions(connection)[2] == deadlocks


def test_partitions_are_counted_with_their_table(
    service: EnhancedDatabaseService, connection: BoundedConnection, tmp_path: Path, execute: Execute
) -> None:
    """Rows and sizes of all tick partitions are added up as `ticks`, and those of other tables as `other`."""
    imported = import_days(service, tmp_path, "2012-01-01")
    execute("ANALYZE ticks")
    execute("CREATE TABLE foreign_table AS SELECT generate_series(1, 50) AS n")
    execute("ANALYZE foreign_table")
    sizes = {each.table: each for each in server_statistics.list_tables(connection)}
    assert set(sizes) == {*server_statistics.TABLES, "other"}
    assert sizes["ticks"].rows == pytest.approx(imported.rows, rel=0.05)
    [(heap,)] = execute("SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree('ticks') WHERE isleaf")
    [(indexes,)] = execute(
        "SELECT sum(pg_relation_size(indexrelid)) FROM pg_index"
        " JOIN pg_partition_tree('ticks') ON relid = indrelid AND isleaf"
    )
    assert (sizes["ticks"].size_bytes, sizes["ticks"].index_size_bytes) == (heap, indexes)
    assert heap > 100_000
    assert sizes["other"].rows >= 50


def test_unused_indexes_are_those_that_no_query_used(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """An index is unused if no query has used it.

    If a query uses the index of a partition, the index of the table counts as used. Indexes of constraints
    are never listed.
    """
    unused = {(each.table, each.index): each for each in service.list_unused_indexes()}
    assert ("market_events", "market_events_recent") in unused
    assert ("ticks", "ticks_timestamp") in unused
    assert not any(index.endswith("_pkey") or "username_key" in index for _, index in unused)
    assert all(each.size_bytes > 0 for each in unused.values())
    execute("SET enable_seqscan = off")
    execute("SELECT id FROM market_events ORDER BY created_at DESC, id DESC LIMIT 1")
    # otherwise the planner would scan this index completely instead of using `ticks_timestamp`
    [(key,)] = execute(
        "SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'ticks'::regclass AND indisunique"
    )
    execute(f"DROP INDEX {key}")
    execute("SELECT count(*) FROM ticks WHERE timestamp > now() - interval '1 hour'")
    execute("SELECT pg_stat_force_next_flush()")
    after = {each.index for each in service.list_unused_indexes()}
    assert {index for _, index in unused} - after == {"market_events_recent", "ticks_timestamp"}


def test_the_service_lists_tables_and_no_statements(service: EnhancedDatabaseService) -> None:
    """Without pg_stat_statements, `list_slowest_statements` returns None and not an empty tuple."""
    assert {each.table for each in service.list_table_sizes()} == {*server_statistics.TABLES, "other"}
    assert service.list_slowest_statements() is None


def test_replicas_and_their_lag(connection: BoundedConnection, postgres_server: PostgresServer) -> None:
    """A replica that has replayed everything has lag 0. A replica that is behind has a lag above 0."""
    assert list_lags(connection) == {}
    factory = psycopg2.extras.PhysicalReplicationConnection
    with contextlib.ExitStack() as opened:
        [(end,)] = connection.execute_sql("SELECT pg_current_wal_flush_lsn() - '0/0'").fetchall()
        for name, applied in (("replica_a", 2**62), ("replica_b", 1)):
            raw = psycopg2.connect(postgres_server.url(), connection_factory=factory, application_name=name)
            opened.callback(raw.close)
            cursor = raw.cursor()
            cursor.start_replication(start_lsn=int(end), options=None)
            cursor.send_feedback(write_lsn=applied, flush_lsn=applied, apply_lsn=applied, force=True)  # type: ignore[no-untyped-call]  # psycopg2's stubs lack it
        wait_until(lambda: len(list_lags(connection)) == 2, "two replicas", 20.0)
        wait_until(lambda: list_lags(connection)["replica_b"] > 0.1, "a replica that is behind", 20.0)
        assert list_lags(connection)["replica_a"] == 0
