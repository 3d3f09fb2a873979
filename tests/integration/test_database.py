"""The pool and the units of work on a real PostgreSQL: limits, faults, healing."""

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


def changed(settings: Settings, **values: object) -> Settings:
    """Return settings without a cache, so that every read reaches the database."""
    return settings.model_copy(update={"enable_redis_cache": False, **values})


@pytest.fixture
def direct(settings: Settings) -> Iterator[EnhancedDatabaseService]:
    """A service without a cache."""
    with open_service(changed(settings)) as service:
        yield service


def test_opening_connects_to_nothing(settings: Settings) -> None:
    """A process can start while its servers are down."""
    nowhere = SecretStr(f"postgresql://u:p@127.0.0.1:{find_free_port()}/d")
    with open_service(changed(settings, database_url=nowhere)) as service:
        assert service.pool_stats().connections_num == 0
        with pytest.raises(DatabaseUnavailable, match="check that PostgreSQL is running"):
            service.search_users("a")
        assert service.health().status == "unhealthy"


def test_connections_carry_their_limits(direct: EnhancedDatabaseService) -> None:
    """The server enforces the query timeout and knows the application's name."""
    with direct._database.session("probe") as database:
        [row] = database.execute_sql(
            "SELECT current_setting('statement_timeout'), current_setting('application_name'),"
            " current_setting('TimeZone')"
        ).fetchall()
    assert row == ("30s", "echo-markets-job", "UTC")


def test_options_of_the_url_are_kept(settings: Settings) -> None:
    """Options in the URL, such as a search path, are used beside ours."""
    url = settings.database_url.get_secret_value() + "?options=-c%20search_path%3Dpg_catalog"
    with open_service(changed(settings, database_url=SecretStr(url))) as service:
        with service._database.session("probe") as database:
            [row] = database.execute_sql(
                "SELECT current_setting('search_path'), current_setting('statement_timeout')"
            ).fetchall()
        assert row == ("pg_catalog, pg_temp", "30s")


def test_a_long_statement_is_cancelled(settings: Settings) -> None:
    """The error names DATABASE_QUERY_TIMEOUT, and the connection stays usable."""
    with open_service(changed(settings, database_query_timeout=50)) as service:
        with (
            pytest.raises(QueryTimeout, match="DATABASE_QUERY_TIMEOUT"),
            service._database.session("slow") as database,
        ):
            database.execute_sql("SELECT pg_sleep(10)")
        assert service.search_users("") == ()
        assert service.pool_stats().connections_num == 1


@pytest.mark.slow
def test_a_long_operation_may_take_longer(settings: Settings) -> None:
    """Neither the server nor this process ends the statement; later statements have the usual timeout."""
    with open_service(changed(settings, database_query_timeout=50)) as service:
        with service._database.transaction_of("long") as database, database.with_long_timeout(60):
            # longer than the watch waits after the timeout
            database.execute_sql("SELECT pg_sleep(2)")
        with pytest.raises(QueryTimeout), service._database.session("short") as database:
            database.execute_sql("SELECT pg_sleep(10)")


def test_threads_that_end_leak_nothing(direct: EnhancedDatabaseService) -> None:
    """A hundred short threads leave no connection checked out."""
    for _ in range(100):
        thread = threading.Thread(target=lambda: direct.search_users("a"))
        thread.start()
        thread.join()
    stats = direct.pool_stats()
    assert (stats.pool_in_use, stats.connections_num) == (0, 1)


def test_an_exhausted_pool_says_who_holds_it(settings: Settings) -> None:
    """The error names the operation; health answers at once, outside the pool."""
    with (
        open_service(changed(settings, database_connection_limit=1, database_pool_timeout=100)) as service,
        service._database.session("report"),
    ):
        error: list[BaseException] = []

        def ask() -> None:
            try:
                service.search_users("a")
            except PoolTimeout as raised:
                error.append(raised)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(10)
        assert service.health().database == "healthy"
        assert "report in MainThread" in str(error[0])


def test_many_threads_share_few_connections(settings: Settings) -> None:
    """Thirty threads on a pool of three are all answered."""
    with open_service(changed(settings, database_connection_limit=3)) as service:
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


def test_a_read_survives_a_terminated_backend(direct: EnhancedDatabaseService, execute: Execute) -> None:
    """The read is tried once more on another connection."""
    direct.search_users("a")
    assert execute(TERMINATE)[0][0] >= 1
    assert direct.search_users("a") == ()
    assert direct.pool_stats().connections_lost == 1


def test_a_read_survives_many_dead_connections(direct: EnhancedDatabaseService, execute: Execute) -> None:
    """After a restart the retry does not get the next dead connection."""
    barrier = threading.Barrier(5)

    def hold() -> None:
        with direct._database.session("hold"):
            barrier.wait(10)

    threads = [threading.Thread(target=hold) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert direct.pool_stats().pool_available == 5
    execute(TERMINATE)
    for _ in range(5):
        assert direct.search_users("a") == ()


def test_a_write_is_never_repeated(direct: EnhancedDatabaseService, execute: Execute, alice: User) -> None:
    """A connection lost in a transaction is an error of the caller, because earlier statements are gone."""
    with (
        pytest.raises(DatabaseUnavailable),
        direct._database.transaction_of("two_steps") as database,
    ):
        database.execute_sql("UPDATE users SET name = 'half'")
        execute(TERMINATE)
        database.execute_sql("UPDATE users SET name = 'whole'")
    assert direct.get_user_by_id(alice.id).name == "Alice Adams"
    assert direct.pool_stats().pool_in_use == 0


def test_a_transaction_begins_with_its_first_statement(direct: EnhancedDatabaseService) -> None:
    """BEGIN is sent with it; without a statement there is no transaction, and none is left open."""
    statements: list[str] = []
    database = direct._database
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


def test_a_failed_first_statement_undoes_nothing_else(
    direct: EnhancedDatabaseService, execute: Execute
) -> None:
    """The first savepoint fails, and the transaction around it stays usable."""
    with direct.transaction():
        with pytest.raises(InvalidInput):
            direct.create_user(username="")
        with pytest.raises(UserNotFound):
            direct.touch_last_active("018f0000-0000-7000-8000-000000000001")
        direct.create_user(username="alice")
    assert execute("SELECT username FROM users") == [("alice",)]


def test_one_transaction_may_load_a_table_twice(direct: EnhancedDatabaseService, execute: Execute) -> None:
    """The second load is not disturbed by the staging table of the first."""
    now = datetime(2026, 3, 2, tzinfo=UTC)
    with direct.transaction():
        for price in (1, 2):
            direct.load_market_ticks([Tick("AAPL", now, Decimal(price))])
        direct.insert_market_ticks([Tick(f"S{n}", now, Decimal(n + 1)) for n in range(600)])
    assert execute("SELECT price FROM ticks WHERE symbol = 'AAPL'") == [(2,)]
    assert execute("SELECT count(*) FROM ticks") == [(601,)]


def test_a_restarted_server_heals(settings: Settings, server_directory: Callable[[], Path]) -> None:
    """During the outage the error names the remedy; afterwards calls work without a restart."""
    directory, port = server_directory(), find_free_port()
    with run_postgres(directory, port=port, options=FAST) as server:
        own = changed(settings, database_url=SecretStr(server.url()))
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
    """Return the first evaluation with this status; one can be two seconds old."""
    for _ in range(200):
        if (health := service.health()).status == status:
            return health
        threading.Event().wait(0.05)
    raise AssertionError(f"health stays {health.status}")


def test_health_of_a_hung_server_is_bounded(settings: Settings, server_directory: Callable[[], Path]) -> None:
    """After SIGSTOP the evaluation reports unhealthy within its time."""
    with run_postgres(server_directory(), options=FAST) as server:
        service = open_service(changed(settings, database_url=SecretStr(server.url())))
        Migrator(changed(settings, database_url=SecretStr(server.url()))).up()
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
    """After `close` the server has no connection, and calls raise `PoolClosed`."""
    service = open_service(changed(settings))
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
    """The error of a refused login has the server's reason and not the password."""
    url = SecretStr(f"postgresql://postgres:wr0ng-s3cret@127.0.0.1:{postgres_server.port}/postgres")
    with (
        open_service(changed(settings, database_url=url)) as service,
        pytest.raises(DatabaseUnavailable) as caught,
    ):
        service.search_users("a")
    assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"
