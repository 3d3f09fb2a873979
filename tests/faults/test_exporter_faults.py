"""The exporter while the servers are stopped, hang or are full: it answers, and heals by itself."""

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

# As Prometheus would ask with its scrape_timeout at 4 s.
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


class Subject:
    """An exporter, and servers that a test may stop and start on the same ports."""

    def __init__(self, directory: Path, valkey: OwnValkey) -> None:
        self.directory, self.port, self.valkey = directory, find_free_port(), valkey
        self.running = contextlib.ExitStack()
        self.postgres: PostgresServer
        self.settings: Settings
        self.client: TestClient

    def start_postgres(self) -> None:
        """Serve the same database as before."""
        self.postgres = self.running.enter_context(
            run_postgres(self.directory, port=self.port, options=OPTIONS)
        )

    def scrape(self) -> str:
        """Return what a scrape says; it is never late and always 200."""
        started = time.monotonic()
        response = self.client.get("/metrics", headers=HEADERS)
        assert response.status_code == 200
        assert time.monotonic() - started < TIMEOUT_SECONDS
        return response.text

    def is_up(self, service: str) -> bool:
        """Say what a scrape says of a server."""
        return value(self.scrape(), "echo_service_up", service=service) == 1

    def works(self, *names: str) -> bool:
        """Say whether these collectors worked in a scrape."""
        return self.list_success(*names) == {1}

    def list_success(self, *names: str) -> set[float]:
        """Return what a scrape says of these collectors."""
        text = self.scrape()
        return {value(text, "echo_scrape_collector_success", collector=name) for name in names}

    def processes(self) -> list[int]:
        """Return PostgreSQL's processes, the first one first."""
        first = psutil.Process(self.postgres.pid)
        return [first.pid, *(child.pid for child in first.children(recursive=True))]


@pytest.fixture(scope="module")
def stack(server_directory: Callable[[], Path]) -> Iterator[Subject]:
    """One subject for all; a test leaves it healed."""
    valkey = OwnValkey(server_directory())
    subject = Subject(server_directory(), valkey)
    with subject.running:
        subject.start_postgres()
        settings = subject.settings = Settings(
            database_url=SecretStr(subject.postgres.url()),
            redis_url=SecretStr(valkey.server.url),
            redis_password=SecretStr(valkey.server.password),
        )
        Migrator(settings).up()
        with (
            open_service(settings, role="exporter") as service,
            TestClient(
                build_app(service, runners=open_runners(settings, service.metrics)), base_url=LOCAL_URL
            ) as subject.client,
        ):
            yield subject
    valkey.stop()


@pytest.fixture
def subject(stack: Subject) -> Subject:
    """The subject, healthy."""
    assert_healed(stack, "database", *POSTGRES)
    assert_healed(stack, "redis", "redis")
    return stack


def count_threads() -> int:
    """Return the threads that ask servers."""
    return sum(each.name.startswith(("collect", "health-")) for each in threading.enumerate())


def assert_down_and_steady(subject: Subject, service: str, *collectors: str) -> str:
    """Scrape until the server is known to be down, and go on for some scrapes; return the last.

    `collectors` fail as well, once their answers from before are a second old.
    """
    wait_until(lambda: not subject.is_up(service), f"{service} is down", HEAL_SECONDS)
    wait_until(lambda: subject.list_success(*collectors) <= {0}, "the collectors fail", HEAL_SECONDS)
    text = ""
    for _ in range(5):
        text = subject.scrape()
        assert value(text, "echo_service_up", service=service) == 0
        # one for each runner and each check
        assert count_threads() <= 4
    return text


def assert_healed(subject: Subject, service: str, *collectors: str) -> None:
    """Wait until all is as before, with nobody's help."""
    wait_until(lambda: subject.is_up(service), f"{service} is up", HEAL_SECONDS)
    wait_until(lambda: subject.works(*collectors), "the collectors work", HEAL_SECONDS)
    wait_until(lambda: count_threads() == 0, "no thread is left", HEAL_SECONDS)


def test_postgres_stopped(subject: Subject) -> None:
    """Without PostgreSQL, Redis is shown as before; the missing figures come back with the server."""
    subject.running.close()
    text = assert_down_and_steady(subject, "database", *POSTGRES[:3])
    assert value(text, "echo_service_up", service="redis") == 1
    assert value(text, "echo_health_status", status="unhealthy") == 1
    for name in POSTGRES[:3]:
        assert value(text, "echo_scrape_collector_success", collector=name) == 0
        assert value(text, "echo_scrape_collector_last_success_timestamp_seconds", collector=name) > 0
    assert "echo_pg_connections{" not in text
    assert "echo_redis_memory_used_bytes" in text
    subject.start_postgres()
    assert_healed(subject, "database", *POSTGRES)


def test_postgres_hung(subject: Subject) -> None:
    """While SIGSTOP holds every process, each scrape is in time and threads do not pile up."""
    stopped = subject.processes()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        text = assert_down_and_steady(subject, "database", *POSTGRES[:3])
        for name in POSTGRES[:3]:
            assert value(text, "echo_scrape_collector_success", collector=name) == 0
        assert value(text, "echo_scrape_collector_success", collector="redis") == 1
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert_healed(subject, "database", *POSTGRES)


def test_postgres_that_takes_nobody_new(subject: Subject) -> None:
    """The hung first process lets nobody connect; the collectors' own connection shows the reason."""
    os.kill(subject.postgres.pid, signal.SIGSTOP)
    try:
        text = assert_down_and_steady(subject, "database")
        assert value(text, "echo_scrape_collector_success", collector="postgres_activity") == 1
    finally:
        os.kill(subject.postgres.pid, signal.SIGCONT)
    assert_healed(subject, "database", *POSTGRES)


def count_others(subject: Subject) -> float:
    """Return how many connections of others a scrape shows."""
    text = subject.client.get("/metrics", headers=HEADERS).text
    states = ("idle", "idle_in_transaction")
    return sum(value(text, "echo_pg_connections", application="other", state=state) for state in states)


def test_postgres_without_a_free_connection(subject: Subject) -> None:
    """New clients are refused, but connections are still counted, because the count shows why."""
    with contextlib.ExitStack() as held:
        with pytest.raises(psycopg2.OperationalError):
            while True:
                held.callback(psycopg2.connect(subject.postgres.url()).close)
        assert_down_and_steady(subject, "database")
        # an answer of before is kept for a second
        wait_until(lambda: count_others(subject) >= 8, "they are counted")
    assert_healed(subject, "database", *POSTGRES)


def test_a_locked_table_fails_its_collector_alone(subject: Subject) -> None:
    """Table sizes need a lock that a migration may hold; other collectors do not wait for it."""
    lock = psycopg2.connect(subject.postgres.url())
    with contextlib.closing(lock), lock.cursor() as cursor:
        cursor.execute("LOCK TABLE ticks IN ACCESS EXCLUSIVE MODE")
        # those of before are kept for a while
        with (
            open_service(subject.settings) as service,
            TestClient(
                build_app(service, runners=open_runners(subject.settings, service.metrics)),
                base_url=LOCAL_URL,
            ) as client,
        ):
            text = client.get("/metrics", headers=HEADERS).text
            assert value(text, "echo_scrape_collector_success", collector="postgres_tables") == 0
            assert value(text, "echo_scrape_collector_success", collector="postgres_activity") == 1
            assert value(text, "echo_scrape_collector_success", collector="postgres_statements") == 1
            assert value(text, "echo_service_up", service="database") == 1


def test_redis_stopped(subject: Subject) -> None:
    """Without Redis, PostgreSQL is shown as before."""
    subject.valkey.stop()
    text = assert_down_and_steady(subject, "redis", "redis")
    assert value(text, "echo_service_up", service="database") == 1
    assert value(text, "echo_scrape_collector_success", collector="redis") == 0
    assert value(text, "echo_health_status", status="degraded") == 1
    assert "echo_redis_memory_used_bytes" not in text
    subject.valkey.start()
    assert_healed(subject, "redis", "redis")


def test_redis_hung(subject: Subject) -> None:
    """Each scrape waits for a hung Redis for no longer than one short timeout."""
    os.kill(subject.valkey.server.pid, signal.SIGSTOP)
    try:
        text = assert_down_and_steady(subject, "redis", "redis")
        assert value(text, "echo_scrape_collector_success", collector="redis") == 0
        assert value(text, "echo_scrape_collector_success", collector="postgres_activity") == 1
    finally:
        os.kill(subject.valkey.server.pid, signal.SIGCONT)
    assert_healed(subject, "redis", "redis")


def test_a_folder_that_another_exporter_holds(subject: Subject, tmp_path: Path) -> None:
    """Another exporter hangs during a scrape: this one answers in time with a correct health."""
    shared = subject.settings.model_copy(update={"metrics_dir": tmp_path})
    with (
        open_service(shared, role="exporter") as service,
        TestClient(build_app(service), base_url=LOCAL_URL) as client,
    ):
        holder = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(holder, fcntl.LOCK_EX)
        took, up = [], []
        for _ in range(5):
            started = time.monotonic()
            text = client.get("/metrics", headers={"X-Prometheus-Scrape-Timeout-Seconds": "1.2"}).text
            took.append(time.monotonic() - started)
            up.append(value(text, "echo_service_up", service="database"))
            assert value(text, "echo_scrape_collector_success", collector="processes") == 0
        # a machine that does other things may be late now and then
        assert min(took) < 1.2
        assert 1 in up
        os.close(holder)
        text = client.get("/metrics").text
        assert value(text, "echo_scrape_collector_success", collector="processes") == 1


def test_a_short_timeout_is_kept(subject: Subject) -> None:
    """With 0.7 s to answer and all servers hung, the answer comes in time and says that all is down."""
    stopped = [*subject.processes(), subject.valkey.server.pid]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        # what is known from before is two seconds old at most
        wait_until(lambda: not subject.is_up("database"), "the database is down", HEAL_SECONDS)
        took = []
        for _ in range(5):
            started = time.monotonic()
            response = subject.client.get("/metrics", headers={"X-Prometheus-Scrape-Timeout-Seconds": "0.7"})
            took.append(time.monotonic() - started)
            for service in ("database", "redis"):
                assert value(response.text, "echo_service_up", service=service) == 0
        # a machine that does other things may be late now and then
        assert min(took) < 0.7
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
