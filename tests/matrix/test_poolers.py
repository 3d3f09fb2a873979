"""The service behind PgBouncer in transaction mode: locks, limits, abandoned statements, URL options."""

import contextlib
import logging
import threading
from collections.abc import Callable

import pytest
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.app import open_process_lock
from core.database.statement_watch import shut_socket_down
from core.errors import DatabaseUnavailable
from core.migration import Migrator
from tests.conftest import connected
from tests.matrix.conftest import NOTHING, Target, Variant
from tests.patience import wait_until

MakeTarget = Callable[[Variant], Target]
THREADS = 8


def run_short_transactions(service: EnhancedDatabaseService, errors: list[BaseException]) -> None:
    """Run five short transactions, each on a connection of the pool; append an error to `errors`."""
    try:
        for _ in range(5):
            with service._database.transaction_of("test") as database:
                database.execute_sql("SELECT pg_sleep(0.01)")
    except BaseException as error:
        errors.append(error)


def run_threads(work: Callable[[], None]) -> None:
    """Run `work` in eight threads at the same time."""
    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_an_interrupted_migration_leaves_no_lock(make_target: MakeTarget) -> None:
    """If a migration loses its connection to the pooler, its lock is released and the next one runs."""
    target = make_target(Variant(pooler=NOTHING))
    with contextlib.suppress(DatabaseUnavailable), Migrator(target.settings)._locked() as runner:
        runner.database.execute_sql("CREATE TABLE half ()")
        shut_socket_down(runner.database.connection())
        runner.database.execute_sql("SELECT 1")
    pause = threading.Event()
    assert Migrator(target.settings, wait_seconds=30, sleep=pause.wait).up() == []
    with connected(target.administrator_url) as run:
        assert run("SELECT to_regclass('half')") == [(None,)]
        assert run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


def test_simultaneous_migrations_run_once(make_target: MakeTarget) -> None:
    """Of eight simultaneous runs of the migrations, one applies all of them and the others none."""
    target = make_target(Variant(pooler=NOTHING))
    names = [row.name for row in Migrator(target.settings).status()]
    Migrator(target.settings).down(names[0])
    applied: list[list[str]] = []
    run_threads(lambda: applied.append(Migrator(target.settings).up()))
    assert sorted(applied) == [[]] * (THREADS - 1) + [names]


def test_callers_wait_for_connections_of_the_pooler(make_target: MakeTarget) -> None:
    """If the pooler accepts only three clients, eight threads share three connections without an error."""
    target = make_target(Variant(pooler={"max_client_conn": "3"}))
    errors: list[BaseException] = []
    with open_service(target.settings) as service:
        run_threads(lambda: run_short_transactions(service, errors))
        assert not errors
        assert 1 <= service.pool_stats().pool_max <= 3


def test_more_clients_than_sessions_take_turns(make_target: MakeTarget) -> None:
    """Eight threads with more than three connections share three sessions of the pooler without an error."""
    target = make_target(Variant(pooler={"default_pool_size": "3"}))
    errors: list[BaseException] = []
    with open_service(target.settings) as service:
        run_threads(lambda: run_short_transactions(service, errors))
        assert not errors
        assert service.pool_stats().pool_size > 3


def test_an_abandoned_statement_ends_on_the_server(make_target: MakeTarget) -> None:
    """When the service closes, its running statement ends on the server, which checks for lost clients."""
    target = make_target(Variant(pooler=NOTHING))
    running = (
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%asleep%%' AND pid <> pg_backend_pid()"
    )
    with connected(target.administrator_url) as run:
        service = open_service(target.settings)

        def sleep() -> None:
            with contextlib.suppress(DatabaseUnavailable), service._database.session("sleep") as database:
                database.execute_sql("SELECT pg_sleep(100) /* asleep */")

        thread = threading.Thread(target=sleep)
        thread.start()
        wait_until(lambda: run(running) == [(1,)], "the statement runs", 20.0)
        service.close(drain_seconds=0.1)
        thread.join(10)
        assert not thread.is_alive()
        wait_until(lambda: run(running) == [(0,)], "the statement has ended", 20.0)


@pytest.mark.parametrize("ignored", [False, True])
def test_a_pooler_is_logged_once(
    make_target: MakeTarget, caplog: pytest.LogCaptureFixture, *, ignored: bool
) -> None:
    """The log says that a pooler refuses or drops start-up options, at most once for each thread."""
    pooler = {"ignore_startup_parameters": "options"} if ignored else NOTHING
    target = make_target(Variant(pooler=pooler))
    caplog.clear()
    with caplog.at_level(logging.INFO, "core.database.connector"), open_service(target.settings) as service:
        errors: list[BaseException] = []
        run_threads(lambda: run_short_transactions(service, errors))
    messages = {record.getMessage() for record in caplog.records}
    verb = "drops" if ignored else "refuses"
    assert messages == {f"a pooler {verb} start-up options; each transaction gets its settings"}
    assert len(caplog.records) <= THREADS


def with_options(settings: Settings, options: str) -> Settings:
    """Return settings whose DATABASE_URL has the parameter `options`."""
    url = settings.database_url.get_secret_value()
    return settings.model_copy(update={"database_url": SecretStr(f"{url}?options={options}")})


def test_options_of_the_url_apply_behind_a_pooler(make_target: MakeTarget) -> None:
    """Settings in the options of DATABASE_URL apply to every statement; a start-up switch (-d) is refused."""
    target = make_target(Variant(pooler=NOTHING))
    with open_service(with_options(target.settings, "-c%20work_mem%3D7MB%20--temp-buffers%3D9MB")) as service:
        for unit in (service._database.session, service._database.transaction_of):
            with unit("test") as database:
                for _ in range(3):
                    query = "SELECT current_setting('work_mem'), current_setting('temp_buffers')"
                    assert database.execute_sql(query).fetchone() == ("7MB", "9MB")
    with (
        open_service(with_options(target.settings, "-d%203")) as service,
        pytest.raises(DatabaseUnavailable, match="-d in the options of DATABASE_URL cannot be set later"),
    ):
        service.search_users("a")


@pytest.mark.slow
def test_an_idle_timeout_of_the_pooler_fails_no_write(make_target: MakeTarget) -> None:
    """If the pooler closes clients that are idle for 1 s, a write after a pause of 2.5 s still succeeds."""
    target = make_target(Variant(pooler={"client_idle_timeout": "1"}))
    with open_service(target.settings) as service:
        user = service.create_user(username="alice")
        for number in range(2):
            threading.Event().wait(2.5)
            service.update_user_profile(user.id, name=f"name {number}")
        assert service.pool_stats().connections_lost == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"query_timeout": "1"}, "query timeout"),
        ({"idle_transaction_timeout": "1"}, "idle transaction timeout"),
    ],
)
def test_an_error_has_the_message_of_the_pooler(
    make_target: MakeTarget, options: dict[str, str], words: str
) -> None:
    """If the pooler closes a connection, the error has the pooler's message."""
    with open_service(make_target(Variant(pooler=options)).settings) as service:
        with (
            pytest.raises(DatabaseUnavailable, match=words),
            service._database.transaction_of("slow") as database,
        ):
            database.execute_sql("SELECT pg_sleep(0.1)")
            if "idle" in words:
                threading.Event().wait(2.5)
            database.execute_sql("SELECT pg_sleep(4)")
        assert service.search_users("nobody") == ()


def test_a_process_lock_is_released_with_its_connection(make_target: MakeTarget) -> None:
    """When the holder of a process lock loses its connection to the pooler, another process gets the lock."""
    target = make_target(Variant(pooler=NOTHING))
    alice, bob = (open_process_lock(target.settings, 0x74657374, role="simulator") for _ in range(2))
    assert [alice.hold(), bob.hold(), alice.hold(), bob.hold()] == [True, False, True, False]
    assert alice._raw is not None
    shut_socket_down(alice._raw)
    wait_until(bob.hold, "the lock is released", 20.0)
    with pytest.raises(DatabaseUnavailable):
        alice.hold()
    assert not alice.hold()
    for lock in (alice, bob):
        lock.release()
