"""Tests of servers that close idle connections, or that allow fewer connections than the pool's limit."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import ConnectionsExhausted, DatabaseUnavailable
from core.testing import PostgresServer
from tests.conftest import Execute, administered
from tests.patience import wait_until

END_IDLE = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
ALIVE = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
THREADS = 12


def fill_pool(service: EnhancedDatabaseService, count: int) -> None:
    """Leave `count` idle connections in the pool."""
    barrier = threading.Barrier(count)

    def hold() -> None:
        with service._database.session("hold"):
            barrier.wait(10)

    threads = [threading.Thread(target=hold) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert service.pool_stats().pool_available == count


def test_writes_replace_connections_that_the_server_closed(settings: Settings, execute: Execute) -> None:
    """When the server has closed all idle connections, as in a restart, the next writes work."""
    with open_service(settings.model_copy(update={"enable_redis_cache": False})) as service:
        fill_pool(service, 4)
        execute(END_IDLE)
        wait_until(lambda: execute(ALIVE) == [(0,)], "the server has closed them", 20.0)
        for name in ("alice", "bob", "charlie"):
            service.create_user(username=name)
        assert service.pool_stats().connections_lost == 1, "the replaced connection is used again"
        fill_pool(service, 4)
        assert service.pool_stats().connections_lost == 4


@pytest.mark.slow
def test_idle_session_timeout_loses_no_write(settings: Settings, postgres_server: PostgresServer) -> None:
    """Writes two seconds apart work although the server ends sessions that are idle for one second."""
    name = settings.database_url.get_secret_value().rsplit("/", 1)[1]
    with administered(postgres_server) as run:
        run(f"ALTER DATABASE {name} SET idle_session_timeout = '1s'")
    with open_service(settings.model_copy(update={"enable_redis_cache": False})) as service:
        user = service.create_user(username="alice")
        for number in range(3):
            threading.Event().wait(2)
            service.update_user_profile(user.id, name=f"name {number}")
            with service.transaction():
                service.touch_last_active(user.id)
        assert service.pool_stats().connections_lost == 3


def test_a_notification_does_not_cause_a_reconnect(settings: Settings, execute: Execute) -> None:
    """A connection that received a notification while idle is pinged and used again."""
    with open_service(settings.model_copy(update={"enable_redis_cache": False})) as service:
        with service._database.session("listen") as database:
            database.execute_sql("LISTEN news")
        [entry] = service._database._pool._idle
        assert not entry.needs_ping(entry.idle_since, 0.0)
        execute("NOTIFY news")
        wait_until(
            lambda: entry.needs_ping(entry.idle_since, 0.0), "the session has received the notification", 20.0
        )
        service.search_users("a")
        stats = service.pool_stats()
    assert (stats.connections_num, stats.connections_lost) == (1, 0)


@contextmanager
def limit_connections(
    server: PostgresServer, settings: Settings, *, connections: int, of: str
) -> Iterator[Settings]:
    """Yield settings of a new role, with a connection limit on the role or on the database (`of`)."""
    name = settings.database_url.get_secret_value().rsplit("/", 1)[1]
    role = f"limited_{name[-8:]}"
    limit = f"CONNECTION LIMIT {connections}"
    with administered(server) as run:
        run(f"CREATE ROLE {role} LOGIN PASSWORD 'x' IN ROLE pg_read_all_data, pg_write_all_data")
        run(f"ALTER ROLE {role} {limit}" if of == "role" else f"ALTER DATABASE {name} {limit}")
        url = SecretStr(f"postgresql://{role}:x@127.0.0.1:{server.port}/{name}")
        try:
            yield settings.model_copy(update={"database_url": url, "enable_redis_cache": False})
        finally:
            run(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
            run(f"DROP ROLE {role}")


@pytest.mark.parametrize("of", ["role", "database"])
def test_callers_wait_for_the_allowed_connections(
    settings: Settings, postgres_server: PostgresServer, of: str
) -> None:
    """Twelve threads share the three connections that the server allows, although the pool's limit is ten."""
    with (
        limit_connections(postgres_server, settings, connections=3, of=of) as few,
        open_service(few) as service,
    ):
        errors: list[BaseException] = []
        barrier = threading.Barrier(THREADS)

        def work(number: int) -> None:
            try:
                barrier.wait(10)
                for _ in range(5):
                    with service._database.session("work") as database:
                        database.execute_sql("SELECT pg_sleep(0.01)")
                service.create_user(username=f"player-{number}")
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not errors
        assert service.pool_stats().pool_max == 3
        assert len(service.search_users("player-")) == THREADS


def test_a_refused_first_connection_names_all_limits(
    settings: Settings, postgres_server: PostgresServer
) -> None:
    """If the role's connection limit is used up, the error has the server's message and names the limits."""
    with (
        limit_connections(postgres_server, settings, connections=1, of="role") as few,
        open_service(few) as first,
        open_service(few) as second,
        first._database.session("hold"),
    ):
        with pytest.raises(ConnectionsExhausted, match="too many connections for role") as error:
            second.search_users("a")
        assert "the limit of the role or of the pooler" in str(error.value)


@pytest.mark.slow
def test_an_idle_transaction_that_the_server_ends_is_lost(
    settings: Settings, postgres_server: PostgresServer
) -> None:
    """If the server ends an idle transaction, the block raises an error and stores nothing.

    The next call works.
    """
    name = settings.database_url.get_secret_value().rsplit("/", 1)[1]
    with administered(postgres_server) as run:
        run(f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '200ms'")
    with open_service(settings.model_copy(update={"enable_redis_cache": False})) as service:
        user = service.create_user(username="alice", name="before")
        with pytest.raises(DatabaseUnavailable), service.transaction():
            service.update_user_profile(user.id, name="inside")
            threading.Event().wait(1)
            service.update_user_profile(user.id, name="too late")
        assert service.get_user_by_id(user.id).name == "before"
        assert service.pool_stats().pool_in_use == 0
