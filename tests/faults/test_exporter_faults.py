"""The exporter answers while PostgreSQL or Redis is stopped, hung or full, and recovers by itself."""

import contextlib
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from core import Settings, open_service
from core.migration import Migrator
from core.stack.ports import find_free_port
from core.testing import PostgresServer, run_postgres
from exporter.server import build_app, open_runners
from tests.conftest import FAST
from tests.exporter_server import LOCAL_URL
from tests.faults.conftest import OwnValkey
from tests.integration.test_exporter import value
from tests.patience import wait_until

# The header that Prometheus sends with `scrape_timeout: 4s`.
TIMEOUT_SECONDS = 4.0
HEADERS = {"X-Prometheus-Scrape-Timeout-Seconds": str(TIMEOUT_SECONDS)}
HEAL_SECONDS = 15
OPTIONS = {**FAST, "max_connections": "12", "superuser_reserved_connections": "0"}
POSTGRES = (
    "postgres_activity",
    "postgres_transactions",
    "postgres_replication",
    "postgres_tables",
    "postgres_statements",
)


class ExporterStack:
    """An exporter, and servers that a test may stop and start again on the same ports."""

    def __init__(self, directory: Path, valkey: OwnValkey) -> None:
        self.directory, self.port, self.valkey = directory, find_free_port(), valkey
        self.running = contextlib.ExitStack()
        self.postgres: PostgresServer
        self.settings: Settings
        self.client: TestClient

    def start_postgres(self) -> None:
        """Start PostgreSQL on the port and data folder of the first start."""
        self.postgres = self.running.enter_context(
            run_postgres(self.directory, port=self.port, options=OPTIONS)
        )

    def scrape(self) -> str:
        """Return the text of a scrape; fail if the status is not 200 or the answer is late."""
        started = time.monotonic()
        response = self.client.get("/metrics", headers=HEADERS)
        assert response.status_code == 200
        assert time.monotonic() - started < TIMEOUT_SECONDS
        return response.text

    def is_up(self, service: str) -> bool:
        """Return whether a scrape reports the server `service` as up."""
        return value(self.scrape(), "echo_service_up", service=service) == 1

    def works(self, *names: str) -> bool:
        """Return whether a scrape reports success for all these collectors."""
        return self.list_success(*names) == {1}

    def list_success(self, *names: str) -> set[float]:
        """Return the success values (0 or 1) of these collectors in a scrape."""
        text = self.scrape()
        return {value(text, "echo_scrape_collector_success", collector=name) for name in names}

    def processes(self) -> list[int]:
        """Return the process ids of PostgreSQL, the postmaster first."""
        postmaster = psutil.Process(self.postgres.pid)
        return [postmaster.pid, *(child.pid for child in postmaster.children(recursive=True))]


@pytest.fixture(scope="module")
def shared_stack(server_directory: Callable[[], Path]) -> Iterator[ExporterStack]:
    """Yield one exporter with its servers for all tests of this module."""
    valkey = OwnValkey(server_directory())
    stack = ExporterStack(server_directory(), valkey)
    with stack.running:
        stack.start_postgres()
        settings = stack.settings = Settings(
            database_url=SecretStr(stack.postgres.url()),
            redis_url=SecretStr(valkey.server.url),
            redis_password=SecretStr(valkey.server.password),
        )
        Migrator(settings).up()
        with (
            open_service(settings, role="exporter") as service,
            TestClient(
                build_app(service, runners=open_runners(settings, service.metrics)), base_url=LOCAL_URL
            ) as stack.client,
        ):
            yield stack
    valkey.stop()


@pytest.fixture
def stack(shared_stack: ExporterStack) -> ExporterStack:
    """Return the exporter with its servers once every collector succeeds."""
    assert_healed(shared_stack, "database", *POSTGRES)
    assert_healed(shared_stack, "redis", "redis")
    return shared_stack


def count_threads() -> int:
    """Return the number of threads that run collectors or health checks."""
    return sum(each.name.startswith(("collect", "health-")) for each in threading.enumerate())


def assert_down_and_steady(stack: ExporterStack, service: str, *collectors: str) -> str:
    """Scrape until the server counts as down and `collectors` fail; check five more scrapes; return the last.

    The collectors fail later than the health check, because their last results are used for a second.
    """
    wait_until(lambda: not stack.is_up(service), f"{service} is down", HEAL_SECONDS)
    wait_until(lambda: stack.list_success(*collectors) <= {0}, "the collectors fail", HEAL_SECONDS)
    text = ""
    for _ in range(5):
        text = stack.scrape()
        assert value(text, "echo_service_up", service=service) == 0
        # one thread for each of two collector runners and two health checks
        assert count_threads() <= 4
    return text


def assert_healed(stack: ExporterStack, service: str, *collectors: str) -> None:
    """Wait until the server counts as up, these collectors succeed and no thread of them runs."""
    wait_until(lambda: stack.is_up(service), f"{service} is up", HEAL_SECONDS)
    wait_until(lambda: stack.works(*collectors), "the collectors work", HEAL_SECONDS)
    wait_until(lambda: count_threads() == 0, "no thread is left", HEAL_SECONDS)


def test_postgres_stopped(stack: ExporterStack) -> None:
    """While PostgreSQL is stopped, only its metrics are missing; they return when PostgreSQL does."""
    stack.running.close()
    text = assert_down_and_steady(stack, "database", *POSTGRES[:3])
    assert value(text, "echo_service_up", service="redis") == 1
    assert value(text, "echo_health_status", status="unhealthy") == 1
    for name in POSTGRES[:3]:
        assert value(text, "echo_scrape_collector_success", collector=name) == 0
        assert value(text, "echo_scrape_collector_last_success_timestamp_seconds", collector=name) > 0
    assert "echo_pg_connections{" not in text
    assert "echo_redis_memory_used_bytes" in text
    stack.start_postgres()
    assert_healed(stack, "database", *POSTGRES)


def test_postgres_hung(stack: ExporterStack) -> None:
    """While PostgreSQL hangs (SIGSTOP), each scrape is in time and at most four threads run."""
    stopped = stack.processes()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        text = assert_down_and_steady(stack, "database", *POSTGRES[:3])
        for name in POSTGRES[:3]:
            assert value(text, "echo_scrape_collector_success", collector=name) == 0
        assert value(text, "echo_scrape_collector_success", collector="redis") == 1
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert_healed(stack, "database", *POSTGRES)


def test_hung_postmaster(stack: ExporterStack) -> None:
    """While the postmaster hangs, the database counts as down; collectors read on their open connection."""
    os.kill(stack.postgres.pid, signal.SIGSTOP)
    try:
        text = assert_down_and_steady(stack, "database")
        assert value(text, "echo_scrape_collector_success", collector="postgres_activity") == 1
    finally:
        os.kill(stack.postgres.pid, signal.SIGCONT)
    assert_healed(stack, "database", *POSTGRES)


def count_other_connections(stack: ExporterStack) -> float:
    """Return the number of connections of other programs in a scrape."""
    text = stack.client.get("/metrics", headers=HEADERS).text
    states = ("idle", "idle_in_transaction")
    return sum(value(text, "echo_pg_connections", application="other", state=state) for state in states)


def test_postgres_without_a_free_connection(stack: ExporterStack) -> None:
    """While PostgreSQL refuses new clients, the scrape still has the number of connections."""
    with contextlib.ExitStack() as held:
        with pytest.raises(psycopg2.OperationalError):
            while True:
                held.callback(psycopg2.connect(stack.postgres.url()).close)
        assert_down_and_steady(stack, "database")
        # a collector's last result is reused for a second, so the new count appears later
        wait_until(lambda: count_other_connections(stack) >= 8, "the connections are counted")
    assert_healed(stack, "database", *POSTGRES)


def test_a_locked_table_fails_only_its_collector(stack: ExporterStack) -> None:
    """While `ticks` is locked, only the collector of table sizes fails; the others do not wait."""
    lock = psycopg2.connect(stack.postgres.url())
    with contextlib.closing(lock), lock.cursor() as cursor:
        cursor.execute("LOCK TABLE ticks IN ACCESS EXCLUSIVE MODE")
        # a new exporter, because this one still has the table sizes of its last run
        with (
            open_service(stack.settings) as service,
            TestClient(
                build_app(service, runners=open_runners(stack.settings, service.metrics)),
                base_url=LOCAL_URL,
            ) as client,
        ):
            text = client.get("/metrics", headers=HEADERS).text
            assert value(text, "echo_scrape_collector_success", collector="postgres_tables") == 0
            assert value(text, "echo_scrape_collector_success", collector="postgres_activity") == 1
            assert value(text, "echo_scrape_collector_success", collector="postgres_statements") == 1
            assert value(text, "echo_service_up", service="database") == 1


def test_redis_stopped(stack: ExporterStack) -> None:
    """While Redis is stopped, only its metrics are missing and the health is degraded."""
    stack.valkey.stop()
    text = assert_down_and_steady(stack, "redis", "redis")
    assert value(text, "echo_service_up", service="database") == 1
    assert value(text, "echo_scrape_collector_success", collector="redis") == 0
    assert value(text, "echo_health_status", status="degraded") == 1
    assert "echo_redis_memory_used_bytes" not in text
    stack.valkey.start()
    assert_healed(stack, "redis", "redis")


def test_redis_hung(stack: ExporterStack) -> None:
    """While Redis hangs (SIGSTOP), each scrape is in time and PostgreSQL's collectors succeed."""
    os.kill(stack.valkey.server.pid, signal.SIGSTOP)
    try:
        text = assert_down_and_steady(stack, "redis", "redis")
        assert value(text, "echo_scrape_collector_success", collector="redis") == 0
        assert value(text, "echo_scrape_collector_success", collector="postgres_activity") == 1
    finally:
        os.kill(stack.valkey.server.pid, signal.SIGCONT)
    assert_healed(stack, "redis", "redis")


def test_metrics_folder_locked_by_another_exporter(stack: ExporterStack, tmp_path: Path) -> None:
    """While another exporter hangs and holds the metrics folder's lock, a scrape is in time."""
    shared = stack.settings.model_copy(update={"metrics_dir": tmp_path})
    with (
        open_service(shared, role="exporter") as service,
        TestClient(build_app(service), base_url=LOCAL_URL) as client,
    ):
        lock = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        took, up = [], []
        for _ in range(5):
            started = time.monotonic()
            text = client.get("/metrics", headers={"X-Prometheus-Scrape-Timeout-Seconds": "1.2"}).text
            took.append(time.monotonic() - started)
            up.append(value(text, "echo_service_up", service="database"))
            assert value(text, "echo_scrape_collector_success", collector="processes") == 0
        # the fastest scrape counts: a busy machine may delay single ones
        assert min(took) < 1.2
        assert 1 in up
        os.close(lock)
        text = client.get("/metrics").text
        assert value(text, "echo_scrape_collector_success", collector="processes") == 1


def test_a_short_timeout_is_kept(stack: ExporterStack) -> None:
    """While both servers hang, a scrape with a timeout of 0.7 s is in time and shows both servers as down."""
    stopped = [*stack.processes(), stack.valkey.server.pid]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        # the health from before the fault is reused for up to two seconds
        wait_until(lambda: not stack.is_up("database"), "the database is down", HEAL_SECONDS)
        took = []
        for _ in range(5):
            started = time.monotonic()
            response = stack.client.get("/metrics", headers={"X-Prometheus-Scrape-Timeout-Seconds": "0.7"})
            took.append(time.monotonic() - started)
            for service in ("database", "redis"):
                assert value(response.text, "echo_service_up", service=service) == 0
        # the fastest scrape counts: a busy machine may delay single ones
        assert min(took) < 0.7
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
