"""Tests of the connection pool, transactions and recovery on a real PostgreSQL."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from psycopg2.extensions import TRANSACTION_STATUS_INTRANS
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import (
    DatabaseUnavailable,
    InvalidInput,
    PoolClosed,
    PoolTimeout,
    QueryTimeout,
    UserNotFound,
)
from core.migration import Migrator
from core.records import Health, Tick, User
from core.stack.ports import find_free_port
from core.testing import PostgresServer, run_postgres
from tests.conftest import FAST, Execute

TERMINATE = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
BACKENDS = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""


def without_cache(settings: Settings, **values: object) -> Settings:
    """Return settings with these values and without a cache, so that every read reaches PostgreSQL."""
    return settings.model_copy(update={"enable_redis_cache": False, **values})


@pytest.fixture
def uncached_service(settings: Settings) -> Iterator[EnhancedDatabaseService]:
    """Yield a service without a cache."""
    with open_service(without_cache(settings)) as service:
        yield service


def test_opening_a_service_connects_to_no_server(settings: Settings) -> None:
    """`open_service` works without a server; the first call raises `DatabaseUnavailable`."""
    nowhere = SecretStr(f"postgresql://u:p@127.0.0.1:{find_free_port()}/d")
    with open_service(without_cache(settings, database_url=nowhere)) as service:
        assert service.pool_stats().connections_num == 0
        with pytest.raises(DatabaseUnavailable, match="check that PostgreSQL is running"):
            service.search_users("a")
        assert service.health().status == "unhealthy"


def test_connections_carry_their_limits(uncached_service: EnhancedDatabaseService) -> None:
    """Each session has the statement timeout, the application name and the time zone UTC."""
    with uncached_service._database.session("probe") as database:
        [row] = database.execute_sql(
            "SELECT current_setting('statement_timeout'), current_setting('application_name'),"
            " current_setting('TimeZone')"
        ).fetchall()
    assert row == ("30s", "echo-markets-job", "UTC")


def test_options_of_the_url_are_kept(settings: Settings) -> None:
    """The `options` of the URL, such as a search path, apply together with those of the stack."""
    url = settings.database_url.get_secret_value() + "?options=-c%20search_path%3Dpg_catalog"
    with open_service(without_cache(settings, database_url=SecretStr(url))) as service:
        with service._database.session("probe") as database:
            [row] = database.execute_sql(
                "SELECT current_setting('search_path'), current_setting('statement_timeout')"
            ).fetchall()
        assert row == ("pg_catalog, pg_temp", "30s")


def test_a_long_statement_is_cancelled(settings: Settings) -> None:
    """A statement over DATABASE_QUERY_TIMEOUT raises `QueryTimeout`, and its connection is used again."""
    with open_service(without_cache(settings, database_query_timeout=50)) as service:
        with (
            pytest.raises(QueryTimeout, match="DATABASE_QUERY_TIMEOUT"),
            service._database.session("slow") as database,
        ):
            database.execute_sql("SELECT pg_sleep(10)")
        assert service.search_users("") == ()
        assert service.pool_stats().connections_num == 1


@pytest.mark.slow
def test_a_long_operation_may_take_longer(settings: Settings) -> None:
    """`with_long_timeout` raises the limit of its statements. The next unit of work has the usual limit."""
    with open_service(without_cache(settings, database_query_timeout=300)) as service:
        with service._database.transaction_of("long") as database, database.with_long_timeout(60):
            # longer than the query timeout plus the grace period of the statement watch
            database.execute_sql("SELECT pg_sleep(2)")
        with pytest.raises(QueryTimeout), service._database.session("short") as database:
            database.execute_sql("SELECT pg_sleep(10)")


def test_ended_threads_leave_no_connection_checked_out(uncached_service: EnhancedDatabaseService) -> None:
    """A hundred threads that read and end leave one connection, which is idle."""
    for _ in range(100):
        thread = threading.Thread(target=lambda: uncached_service.search_users("a"))
        thread.start()
        thread.join()
    stats = uncached_service.pool_stats()
    assert (stats.pool_in_use, stats.connections_num) == (0, 1)


def test_an_exhausted_pool_names_the_operation(settings: Settings) -> None:
    """`PoolTimeout` names the operation and the thread that hold the connection.

    The health check still works, because it does not use the pool.
    """
    with (
        open_service(
            without_cache(settings, database_connection_limit=1, database_pool_timeout=100)
        ) as service,
        service._database.session("report"),
    ):
        error: list[BaseException] = []

        def search() -> None:
            try:
                service.search_users("a")
            except PoolTimeout as raised:
                error.append(raised)

        thread = threading.Thread(target=search)
        thread.start()
        thread.join(10)
        assert service.health().database == "healthy"
        assert "report in MainThread" in str(error[0])


def test_many_threads_share_few_connections(settings: Settings) -> None:
    """Thirty threads with ten reads each are all answered by a pool of three connections."""
    with open_service(without_cache(settings, database_connection_limit=3)) as service:
        errors: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(10):
                    service.search_users("a")
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert errors == []
        stats = service.pool_stats()
        assert stats.connections_num <= 3
        assert stats.requests_num == 300


def test_a_read_survives_a_terminated_backend(
    uncached_service: EnhancedDatabaseService, execute: Execute
) -> None:
    """If the server ends an idle connection, the next read succeeds on a new one."""
    uncached_service.search_users("a")
    assert execute(TERMINATE)[0][0] >= 1
    assert uncached_service.search_users("a") == ()
    assert uncached_service.pool_stats().connections_lost == 1


def test_a_read_survives_many_dead_connections(
    uncached_service: EnhancedDatabaseService, execute: Execute
) -> None:
    """If the server ends all five idle connections, each following read succeeds."""
    barrier = threading.Barrier(5)

    def hold() -> None:
        with uncached_service._database.session("hold"):
            barrier.wait(10)

    threads = [threading.Thread(target=hold) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert uncached_service.pool_stats().pool_available == 5
    execute(TERMINATE)
    for _ in range(5):
        assert uncached_service.search_users("a") == ()


def test_a_lost_transaction_is_not_repeated(
    uncached_service: EnhancedDatabaseService, execute: Execute, alice: User
) -> None:
    """A connection lost inside a transaction raises an error, because its earlier statements are undone."""
    with (
        pytest.raises(DatabaseUnavailable),
        uncached_service._database.transaction_of("two_steps") as database,
    ):
        database.execute_sql("UPDATE users SET name = 'half'")
        execute(TERMINATE)
        database.execute_sql("UPDATE users SET name = 'whole'")
    assert uncached_service.get_user_by_id(alice.id).name == "Alice Adams"
    assert uncached_service.pool_stats().pool_in_use == 0


def test_a_transaction_begins_with_its_first_statement(uncached_service: EnhancedDatabaseService) -> None:
    """BEGIN is sent together with the first statement. A transaction without statements sends nothing."""
    statements: list[str] = []
    database = uncached_service._database
    database.query_hooks.append(lambda event: statements.append(event.sql))
    with database.transaction_of("empty"):
        pass
    with database.transaction_of("two"):
        database.execute_sql("SELECT 1")
        database.execute_sql("SELECT 2")
    with database.transaction_of("by cursor"), database.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id() = pg_current_xact_id()")
        assert cursor.fetchall() == [(True,)]
        assert database.connection().info.transaction_status == TRANSACTION_STATUS_INTRANS
    assert statements == ["BEGIN; SELECT 1 /* op=two */", "SELECT 2 /* op=two */"]


def test_a_failed_first_call_does_not_end_the_transaction(
    uncached_service: EnhancedDatabaseService, execute: Execute
) -> None:
    """If the first calls in a transaction fail, the transaction can still write and commit."""
    with uncached_service.transaction():
        with pytest.raises(InvalidInput):
            uncached_service.create_user(username="")
        with pytest.raises(UserNotFound):
            uncached_service.touch_last_active("018f0000-0000-7000-8000-000000000001")
        uncached_service.create_user(username="alice")
    assert execute("SELECT username FROM users") == [("alice",)]


def test_one_transaction_may_load_a_table_twice(
    uncached_service: EnhancedDatabaseService, execute: Execute
) -> None:
    """Two loads in one transaction work, although each uses a staging table."""
    now = datetime(2026, 3, 2, tzinfo=UTC)
    with uncached_service.transaction():
        for price in (1, 2):
            uncached_service.load_market_ticks([Tick("AAPL", now, Decimal(price))])
        uncached_service.insert_market_ticks([Tick(f"S{n}", now, Decimal(n + 1)) for n in range(600)])
    assert execute("SELECT price FROM ticks WHERE symbol = 'AAPL'") == [(2,)]
    assert execute("SELECT count(*) FROM ticks") == [(601,)]


def test_calls_work_after_a_server_restart(settings: Settings, server_directory: Callable[[], Path]) -> None:
    """While the server is down, calls raise `DatabaseUnavailable`. After its restart they work again."""
    directory, port = server_directory(), find_free_port()
    with run_postgres(directory, port=port, options=FAST) as server:
        own = without_cache(settings, database_url=SecretStr(server.url()))
        Migrator(own).up()
        service = open_service(own)
        service.create_user(username="alice")
    with service:
        with pytest.raises(DatabaseUnavailable):
            service.search_users("a")
        with run_postgres(directory, port=port, options=FAST):
            assert service.search_users("a")[0].username == "alice"
            assert service.health().status == "healthy"


def wait_for_status(service: EnhancedDatabaseService, status: str) -> Health:
    """Return the health with this status; repeat the check, because a result is kept for two seconds."""
    for _ in range(200):
        if (health := service.health()).status == status:
            return health
        threading.Event().wait(0.05)
    raise AssertionError(f"health stays {health.status}")


def test_health_of_a_hung_server_is_bounded(settings: Settings, server_directory: Callable[[], Path]) -> None:
    """If the server is paused with SIGSTOP, the health check reports unhealthy in less than 5 s."""
    with run_postgres(server_directory(), options=FAST) as server:
        service = open_service(without_cache(settings, database_url=SecretStr(server.url())))
        Migrator(without_cache(settings, database_url=SecretStr(server.url()))).up()
        assert service.health().status == "healthy"
        os.kill(server.pid, signal.SIGSTOP)
        try:
            health = wait_for_status(service, "unhealthy")
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert (health.status, health.database) == ("unhealthy", "unhealthy")
        assert health.database_seconds < 5
        service.close()


def test_close_leaves_no_connection(settings: Settings, execute: Execute) -> None:
    """After `close` the server has no connection of the service, and calls raise `PoolClosed`."""
    service = open_service(without_cache(settings))
    service.search_users("a")
    service.health()
    assert execute(BACKENDS)[0][0] >= 1
    service.close()
    for _ in range(100):
        if execute(BACKENDS) == [(0,)]:
            break
        threading.Event().wait(0.02)
    assert execute(BACKENDS) == [(0,)]
    with pytest.raises(PoolClosed):
        service.search_users("a")


def test_a_password_is_never_in_an_error(settings: Settings, postgres_server: PostgresServer) -> None:
    """The error of a refused login and its cause do not contain the password."""
    url = SecretStr(f"postgresql://postgres:wr0ng-s3cret@127.0.0.1:{postgres_server.port}/postgres")
    with (
        open_service(without_cache(settings, database_url=url)) as service,
        pytest.raises(DatabaseUnavailable) as caught,
    ):
        service.search_users("a")
    assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"
