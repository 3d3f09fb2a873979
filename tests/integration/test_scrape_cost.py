"""The cost of a scrape with many processes: processor time of the exporter and time in the database."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from starlette.testclient import TestClient

from core import Settings, open_service
from core.database.bounded_connection import BoundedConnection, BoundedConnector
from core.metrics import open_metrics
from core.metrics.names import STACK_ROLES
from core.migration import count_migrations
from core.queries import server_statistics
from exporter.collectors import postgres
from exporter.server import build_app, open_runners
from tests.bench.fleet import ROLES, fill
from tests.exporter_server import LOCAL_URL
from tests.integration.test_exporter import value
from tests.patience import stretch_processor

WRITERS = 20
SCRAPE_SECONDS = 0.050
DATABASE_SECONDS = 0.005
# Number of repetitions. Only the fastest one counts, because other programs slow down some of them.
ROUNDS = 30


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a metrics folder with twenty live writers of all roles, each with every series."""
    writers = [open_metrics(ROLES[number % len(ROLES)], tmp_path) for number in range(WRITERS)]
    for metrics in writers:
        fill(metrics)
    yield tmp_path
    for metrics in writers:
        metrics.close()


def test_a_scrape_of_twenty_writers_takes_little_time(folder: Path, settings: Settings) -> None:
    """A scrape takes under 50 ms of processor time from the request to the compressed response."""
    shared = settings.model_copy(update={"metrics_dir": folder})
    with (
        open_service(shared, role="exporter") as service,
        TestClient(
            build_app(service, runners=open_runners(shared, service.metrics)), base_url=LOCAL_URL
        ) as client,
    ):

        def scrape() -> float:
            started = time.process_time()
            response = client.get("/metrics")
            seconds = time.process_time() - started
            assert value(response.text, "echo_metrics_writers", role="dashboard") == WRITERS / len(ROLES)
            return seconds

        assert min(scrape() for _ in range(ROUNDS)) < stretch_processor(SCRAPE_SECONDS)


class _TimedConnection:
    """Runs statements and keeps the shortest time that the server reported for each."""

    def __init__(self, connection: BoundedConnection) -> None:
        self._connection = connection
        self.seconds: dict[str, float] = {}

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """Measure a statement with EXPLAIN ANALYZE, then run it."""
        plan = self._connection.execute_sql(f"EXPLAIN (ANALYZE, TIMING OFF) {sql}", params)
        milliseconds = dict(line.split(" Time: ") for (line,) in plan.fetchall() if " Time: " in line)
        seconds = sum(
            float(milliseconds[name].removesuffix(" ms")) / 1000 for name in ("Planning", "Execution")
        )
        self.seconds[sql] = min(seconds, self.seconds.get(sql, seconds))
        return self._connection.execute_sql(sql, params)


READS: tuple[Callable[[_TimedConnection], object], ...] = (
    lambda timed: list(postgres.collect_activity(timed, STACK_ROLES)),
    lambda timed: list(postgres.collect_transactions(timed)),
    lambda timed: list(postgres.collect_replication(timed)),
    server_statistics.list_tables,
    server_statistics.find_statement_schema,
    lambda timed: count_migrations(timed.execute_sql),
)
"""Reads of a scrape and its health check, except pg_stat_statements, which this server has not loaded."""


def test_a_scrape_takes_little_time_in_the_database(settings: Settings, database_url: str) -> None:
    """With twenty open connections, the statements of a scrape take under 5 ms of the server's time."""
    held = [psycopg2.connect(database_url) for _ in range(WRITERS)]
    connection = BoundedConnector(settings, "echo-markets-collector", limit_seconds=5).open()
    timed = _TimedConnection(connection)
    try:
        for _ in range(ROUNDS):
            for read in READS:
                read(timed)
        assert len(timed.seconds) >= len(READS)
        assert sum(timed.seconds.values()) < DATABASE_SECONDS
    finally:
        connection.close()
        for raw in held:
            raw.close()
