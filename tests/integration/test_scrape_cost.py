"""What a scrape of a whole fleet costs: the exporter's processor, and the database."""

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
# What other programs of the machine do meanwhile is not the scrape's cost: the least of many counts.
ROUNDS = 30


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of live writers of all roles that have used every series."""
    writers = [open_metrics(ROLES[number % len(ROLES)], tmp_path) for number in range(WRITERS)]
    for metrics in writers:
        fill(metrics)
    yield tmp_path
    for metrics in writers:
        metrics.close()


def test_a_scrape_of_twenty_live_writers(folder: Path, settings: Settings) -> None:
    """It takes under 50 ms of processor time from request to compressed answer."""
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


class _Timed:
    """Runs statements, and notes the least that each cost the server by its own account."""

    def __init__(self, connection: BoundedConnection) -> None:
        self._connection = connection
        self.seconds: dict[str, float] = {}

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """Run a statement, after its plan was timed."""
        plan = self._connection.execute_sql(f"EXPLAIN (ANALYZE, TIMING OFF) {sql}", params)
        figures = dict(line.split(" Time: ") for (line,) in plan.fetchall() if " Time: " in line)
        spent = sum(float(figures[name].removesuffix(" ms")) / 1000 for name in ("Planning", "Execution"))
        self.seconds[sql] = min(spent, self.seconds.get(sql, spent))
        return self._connection.execute_sql(sql, params)


QUESTIONS: tuple[Callable[[_Timed], object], ...] = (
    lambda timed: list(postgres.collect_activity(timed, STACK_ROLES)),
    lambda timed: list(postgres.collect_transactions(timed)),
    lambda timed: list(postgres.collect_replication(timed)),
    server_statistics.list_tables,
    server_statistics.find_statement_schema,
    lambda timed: count_migrations(timed.execute_sql),
)
"""What a scrape and its health check ask; pg_stat_statements, every 30 s, is not loaded here."""


def test_a_scrape_adds_little_time_in_the_database(settings: Settings, database_url: str) -> None:
    """It takes under 5 ms by the server's statistics, with twenty more connections to count."""
    held = [psycopg2.connect(database_url) for _ in range(WRITERS)]
    connection = BoundedConnector(settings, "echo-markets-collector", limit_seconds=5).open()
    timed = _Timed(connection)
    try:
        for _ in range(ROUNDS):
            for ask in QUESTIONS:
                ask(timed)
        assert len(timed.seconds) >= len(QUESTIONS)
        assert sum(timed.seconds.values()) < DATABASE_SECONDS
    finally:
        connection.close()
        for raw in held:
            raw.close()
