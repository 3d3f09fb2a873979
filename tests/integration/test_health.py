"""The health evaluation, and how the health document, the metrics and the dashboard show it."""

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import DatabaseUnavailable, InvalidInput
from core.health import CACHE_SECONDS, CHECK_SECONDS, HealthEvaluator, scrape_own
from core.metrics.scrape import parse_scrape
from core.migration import Migrator
from core.records import Health, PoolUse
from core.testing import PostgresServer, run_postgres
from dashboard import runtime
from dashboard.pages.operations import tables
from exporter.server import build_app
from tests.conftest import FAST, Execute, administered
from tests.exporter_server import LOCAL_URL
from tests.integration.test_exporter import parse, value, without_database, without_redis
from tests.patience import stretch, wait_until

Prepare = Callable[[EnhancedDatabaseService, Execute], AbstractContextManager[object]]


class State(NamedTuple):
    """A state of the stack: how a test causes it, and the expected health, HTTP status codes and services."""

    change: Callable[[Settings], Settings]
    prepare: Prepare
    status: str
    code: int
    readiness: int
    database: str
    redis: str


def unchanged(settings: Settings) -> Settings:
    """Return the settings as they are."""
    return settings


def with_one_connection(settings: Settings) -> Settings:
    """Return settings for a pool of one connection."""
    return settings.model_copy(update={"database_connection_limit": 1})


def requiring_redis(settings: Settings) -> Settings:
    """Return settings that require Redis and point to a port where no Redis listens."""
    return without_redis(settings).model_copy(update={"health_require_redis": True})


def disabling_redis(settings: Settings) -> Settings:
    """Return settings with the Redis cache disabled."""
    return settings.model_copy(update={"enable_redis_cache": False})


def nothing(_: EnhancedDatabaseService, __: Execute) -> AbstractContextManager[object]:
    """Change nothing in the database."""
    return contextlib.nullcontext()


def exhaust(service: EnhancedDatabaseService, _: Execute) -> AbstractContextManager[object]:
    """Check out the only connection of the pool until the context ends."""
    return service._database.session("report")


def forget_a_migration(_: EnhancedDatabaseService, execute: Execute) -> AbstractContextManager[object]:
    """Remove a migration from the history, so that one migration is pending."""
    execute("DELETE FROM schema_migration WHERE name LIKE '0002%'")
    return contextlib.nullcontext()


def make_read_only(_: EnhancedDatabaseService, execute: Execute) -> AbstractContextManager[object]:
    """Make new database sessions read-only, as hosting providers do when a quota is exceeded."""
    [(name,)] = execute("SELECT current_database()")
    execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    return contextlib.nullcontext()


STATES = {
    "healthy": State(unchanged, nothing, "healthy", 200, 200, "healthy", "healthy"),
    "redis disabled": State(disabling_redis, nothing, "healthy", 200, 200, "healthy", "disabled"),
    "redis down": State(without_redis, nothing, "degraded", 200, 200, "healthy", "unhealthy"),
    "redis down and required": State(requiring_redis, nothing, "unhealthy", 503, 503, "healthy", "unhealthy"),
    "pool exhausted": State(with_one_connection, exhaust, "degraded", 200, 200, "healthy", "healthy"),
    "migrations pending": State(unchanged, forget_a_migration, "degraded", 200, 503, "healthy", "healthy"),
    "read-only": State(unchanged, make_read_only, "degraded", 200, 503, "degraded", "healthy"),
    "database down": State(without_database, nothing, "unhealthy", 503, 503, "unhealthy", "healthy"),
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_document_metrics_and_dashboard_agree(settings: Settings, execute: Execute, state: State) -> None:
    """In each state document, metrics and dashboard show the same health, without address or password."""
    with (
        open_service(state.change(settings)) as service,
        state.prepare(service, execute),
        TestClient(build_app(service), base_url=LOCAL_URL) as client,
    ):
        started = time.monotonic()
        response = client.get("/api/health/database")
        assert time.monotonic() - started < stretch(CHECK_SECONDS + 1)
        document, metrics = response.json(), client.get("/metrics").text
        found = service.health()
        assert (document["status"], response.status_code) == (state.status, state.code)
        assert found.status == state.status
        assert value(metrics, "echo_health_status", status=state.status) == 1
        assert sum(sample.value for sample in parse(metrics)["echo_health_status"].samples) == 1

        database, redis = document["services"]["database"], document["services"]["redis"]
        assert (database["status"], found.database) == (state.database, state.database)
        is_up = state.database != "unhealthy"
        assert value(metrics, "echo_service_up", service="database") == is_up
        assert runtime.is_database_up(service) == is_up
        assert (redis["status"], found.redis) == (state.redis, state.redis)
        ups = {each.labels["service"]: each.value for each in parse(metrics)["echo_service_up"].samples}
        assert ("reason" in database) == (state.database != "healthy")
        assert ups.get("redis") == {"healthy": 1, "unhealthy": 0, "disabled": None}[state.redis]
        assert_strip_agrees(service, metrics, found, document)
        assert client.get("/readyz").status_code == state.readiness
        assert client.get("/livez").status_code == 200
        for text in (response.text, metrics, client.get("/readyz").text):
            assert "s3cr3t" not in text
            assert "127.0.0.1" not in text


def assert_strip_agrees(
    service: EnhancedDatabaseService, metrics: str, found: Health, document: dict[str, Any]
) -> None:
    """Assert that the Operations page shows the same health from a scrape and from its own health check."""
    scrape = parse_scrape(metrics, taken_at=found.timestamp)
    scrape.reasons = {name: each["reason"] for name, each in document["services"].items() if "reason" in each}
    cards = {card.label: card for card in tables.build_cards(scrape, scrape.reasons, shows_reasons=True)}
    own_scrape = scrape_own(service.metrics, found)
    for own in tables.build_cards(own_scrape, own_scrape.reasons, shows_reasons=True):
        assert (own.value, own.state) == (cards[own.label].value, cards[own.label].state)
    assert cards["Stack"].value == found.status.capitalize()
    assert found.pool.is_exhausted == (cards["Connections in use"].state == "warning")


def test_readiness_names_the_reason(settings: Settings, execute: Execute) -> None:
    """The response of `/readyz` names pending migrations with their remedy, or that the database is down."""
    execute("DELETE FROM schema_migration WHERE name LIKE '0002%'")
    texts = []
    for change in (unchanged, without_database):
        with (
            open_service(change(settings)) as service,
            TestClient(build_app(service), base_url=LOCAL_URL) as client,
        ):
            texts.append(client.get("/readyz").text)
    assert texts == [
        "not ready: migrations pending: 1; `make migrate` applies them\n",
        "not ready: the database does not answer\n",
    ]


def test_a_read_only_database_is_not_ready(settings: Settings, execute: Execute) -> None:
    """If the database is read-only, document and readiness name the setting, reads work and writes raise."""
    make_read_only(None, execute)  # type: ignore[arg-type]  # not looked at
    with (
        open_service(disabling_redis(settings)) as service,
        TestClient(build_app(service), base_url=LOCAL_URL) as client,
    ):
        document = client.get("/api/health/database").json()
        reason = "it accepts no writes: default_transaction_read_only is on"
        assert document["services"]["database"]["reason"] == reason
        assert client.get("/readyz").text == f"not ready: the database cannot be written: {reason}\n"
        assert service.search_users("a") == ()
        with pytest.raises(DatabaseUnavailable, match=r"standby .* or default_transaction_read_only is on"):
            service.create_user(username="alice")


@pytest.mark.parametrize("holds", [True, False])
def test_health_at_the_connection_limit_depends_on_the_pool(
    settings: Settings, postgres_server: PostgresServer, *, holds: bool
) -> None:
    """If the server refuses connections, health is degraded if the pool has a connection, else unhealthy."""
    name = settings.database_url.get_secret_value().rsplit("/", 1)[1]
    role = f"scarce_{name[-8:]}"
    with administered(postgres_server) as run:
        run(f"CREATE ROLE {role} LOGIN PASSWORD 'x' CONNECTION LIMIT 1 IN ROLE pg_read_all_data")
        try:
            url = SecretStr(f"postgresql://{role}:x@127.0.0.1:{postgres_server.port}/{name}")
            own = disabling_redis(settings).model_copy(update={"database_url": url})
            with open_service(own) as service, TestClient(build_app(service), base_url=LOCAL_URL) as client:
                other = None if holds else psycopg2.connect(url.get_secret_value())
                if holds:
                    service.search_users("a")
                health = service.health()
                assert health.database == ("degraded" if holds else "unhealthy")
                assert health.database_reason == f'FATAL:  too many connections for role "{role}"'
                assert client.get("/readyz").status_code == (200 if holds else 503)
                if other is not None:
                    other.close()
        finally:
            run(f"DROP ROLE {role}")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        """Return the current value in seconds."""
        return self.seconds

    def read(self) -> datetime:
        """Return the current time in UTC."""
        return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)


NO_POOL = PoolUse(10, 0, 0, 0, 0, is_exhausted=False)


@contextlib.contextmanager
def evaluator(settings: Settings, clock: Clock) -> Iterator[HealthEvaluator]:
    """Yield a health evaluator that belongs to no service and has no pool."""
    yield HealthEvaluator(
        settings,
        list_pools=lambda: [NO_POOL],
        clock=clock.read,
        find_bypass=lambda: None,
        monotonic=clock.monotonic,
    )


def test_an_evaluation_is_kept_for_two_seconds_with_its_timestamp(settings: Settings) -> None:
    """Within two seconds `evaluate` returns the same object, whose timestamp is the time of the check."""
    clock = Clock()
    with evaluator(settings, clock) as health:
        first = health.evaluate()
        assert first.timestamp == clock.read()
        clock.seconds += CACHE_SECONDS - 0.1
        assert health.evaluate() is first
        clock.seconds += 0.2
        second = health.evaluate()
        assert second.timestamp == clock.read() != first.timestamp


def test_concurrent_evaluations_share_one_check(settings: Settings, execute: Execute) -> None:
    """Twenty concurrent evaluations return the same object and open one database session."""
    sessions = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"
    with evaluator(settings, Clock()) as health:
        before = execute(sessions)[0][0]
        with ThreadPoolExecutor(20) as threads:
            found = list(threads.map(lambda _: health.evaluate(), range(20)))
        assert len({id(each) for each in found}) == 1
        deadline = time.monotonic() + 10
        while (after := execute(sessions)[0][0]) == before and time.monotonic() < deadline:
            threading.Event().wait(0.05)
            # discard the statistics that this session has cached
            execute("SELECT pg_stat_clear_snapshot()")
        assert after == before + 1


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """Yield a port that accepts connections and never sends a byte."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield server.getsockname()[1]


def test_a_hanging_server_accumulates_no_threads(settings: Settings) -> None:
    """Ten evaluations of a server that never replies leave at most one thread per check.

    The thread of the database check ends within ten seconds.
    """
    clock = Clock()
    with silent_server() as port:
        silent = settings.model_copy(
            update={
                "database_url": SecretStr(f"postgresql://echo:s3cr3t@127.0.0.1:{port}/echo"),
                "redis_url": SecretStr(f"redis://127.0.0.1:{port}/0"),
                "redis_timeout": 10_000,
            }
        )
        with evaluator(silent, clock) as health:
            for _ in range(10):
                clock.seconds += CACHE_SECONDS
                started = time.monotonic()
                found = health.evaluate(0.1)
                assert time.monotonic() - started < stretch(1)
                assert (found.status, found.database, found.redis) == ("unhealthy",) * 3
            names = [each.name for each in threading.enumerate() if each.name.startswith("health-")]
            assert len(names) == len(set(names)) <= 2
            wait_until(
                lambda: "health-database" not in {each.name for each in threading.enumerate()},
                "the check of the database has ended",
                10.0,
            )


def test_each_check_measures_its_own_duration(settings: Settings) -> None:
    """If PostgreSQL hangs, the duration of the Redis check does not include the wait for PostgreSQL."""
    with silent_server() as port:
        url = SecretStr(f"postgresql://echo:s3cr3t@127.0.0.1:{port}/echo")
        with evaluator(settings.model_copy(update={"database_url": url}), Clock()) as health:
            found = health.evaluate()
    assert (found.database, found.redis) == ("unhealthy", "healthy")
    assert found.database_seconds >= 1
    assert found.redis_seconds < found.database_seconds / 2


def test_checks_run_in_parallel_for_at_most_a_second(settings: Settings) -> None:
    """If both PostgreSQL and Redis hang, an evaluation takes one second, not two."""
    with silent_server() as port:
        silent = settings.model_copy(
            update={
                "database_url": SecretStr(f"postgresql://echo:s3cr3t@127.0.0.1:{port}/echo"),
                "redis_url": SecretStr(f"redis://127.0.0.1:{port}/0"),
                "redis_timeout": 10_000,
            }
        )
        with evaluator(silent, Clock()) as health:
            started = time.monotonic()
            found = health.evaluate()
            assert CHECK_SECONDS - 0.1 <= time.monotonic() - started < stretch(CHECK_SECONDS + 0.7)
            assert (found.database, found.redis) == ("unhealthy", "unhealthy")


def test_a_server_without_free_connections_is_unhealthy(
    settings: Settings, server_directory: Callable[[], Path]
) -> None:
    """If all of the server's connections are in use and the pool has none, the database is unhealthy."""
    options = {**FAST, "max_connections": "4", "superuser_reserved_connections": "0"}
    with run_postgres(server_directory(), options=options) as server:
        own = settings.model_copy(update={"database_url": SecretStr(server.url())})
        Migrator(own).up()
        clock = Clock()
        with evaluator(own, clock) as health, contextlib.ExitStack() as held:
            assert health.evaluate().status == "healthy"
            hold_all_connections(server.url(), held)
            clock.seconds += CACHE_SECONDS
            assert health.evaluate().database == "unhealthy"
            held.close()
            assert wait_until_healthy(health, clock).status == "healthy"


def hold_all_connections(url: str, held: contextlib.ExitStack) -> None:
    """Open connections until the server refuses one; `held` closes them."""
    with contextlib.suppress(psycopg2.OperationalError):
        while True:
            held.callback(psycopg2.connect(url).close)


def wait_until_healthy(health: HealthEvaluator, clock: Clock) -> Health:
    """Return the first healthy evaluation, or the last evaluation after ten seconds."""
    deadline = time.monotonic() + 10
    while True:
        clock.seconds += CACHE_SECONDS
        found = health.evaluate()
        if found.status == "healthy" or time.monotonic() > deadline:
            return found
        threading.Event().wait(0.05)


@pytest.mark.parametrize("limit", [-1, -0.001, math.nan, math.inf, "soon", None, True])
def test_an_invalid_time_limit_is_refused(service: EnhancedDatabaseService, limit: Any) -> None:
    """A time limit that is no positive number raises InvalidInput, which names `limit_seconds`."""
    with pytest.raises(InvalidInput, match="limit_seconds is "):
        service.health(limit)
