"""What is different behind PgBouncer in transaction mode: locks, limits, cancelling, options."""

import contextlib
import logging
import threading
from collections.abc import Callable

import pytest
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.app import open_process_lock
from core.database.statement_watch import sever
from core.errors import DatabaseUnavailable
from core.migration import Migrator
from tests.conftest import connected
from tests.matrix.conftest import NOTHING, Place, Variant
from tests.patience import wait_until

MakePlace = Callable[[Variant], Place]
THREADS = 8


def ask_often(service: EnhancedDatabaseService, errors: list[BaseException]) -> None:
    """Hold a connection for moments, again and again."""
    try:
        for _ in range(5):
            with service._database.transaction_of("ask") as database:
                database.execute_sql("SELECT pg_sleep(0.01)")
    except BaseException as error:
        errors.append(error)


def run_threads(work: Callable[[], None]) -> None:
    """Run it in several threads at once."""
    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_a_migration_that_is_cut_off_strands_no_lock(make_place: MakePlace) -> None:
    """A migration's transaction ends with its connection to the pooler, and the next one does not wait."""
    place = make_place(Variant(pooler=NOTHING))
    with contextlib.suppress(DatabaseUnavailable), Migrator(place.settings)._locked() as runner:
        runner.database.execute_sql("CREATE TABLE half ()")
        sever(runner.database.connection())
        runner.database.execute_sql("SELECT 1")
    pause = threading.Event()
    assert Migrator(place.settings, wait_seconds=30, sleep=pause.wait).up() == []
    with connected(place.administrator_url) as run:
        assert run("SELECT to_regclass('half')") == [(None,)]
        assert run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


def test_two_migrations_do_not_collide(make_place: MakePlace) -> None:
    """Two migrations share the sessions of the pooler, but exclude each other."""
    place = make_place(Variant(pooler=NOTHING))
    names = [row.name for row in Migrator(place.settings).status()]
    Migrator(place.settings).down(names[0])
    applied: list[list[str]] = []
    run_threads(lambda: applied.append(Migrator(place.settings).up()))
    assert sorted(applied) == [[]] * (THREADS - 1) + [names]


def test_callers_queue_for_what_the_pooler_gives(make_place: MakePlace) -> None:
    """The pooler allows fewer clients than the pool, so callers wait."""
    place = make_place(Variant(pooler={"max_client_conn": "3"}))
    errors: list[BaseException] = []
    with open_service(place.settings) as service:
        run_threads(lambda: ask_often(service, errors))
        assert not errors
        assert 1 <= service.pool_stats().pool_max <= 3


def test_more_clients_than_sessions_take_turns(make_place: MakePlace) -> None:
    """Eight threads with a connection each take turns on the two sessions of the pooler."""
    place = make_place(Variant(pooler={"default_pool_size": "3"}))
    errors: list[BaseException] = []
    with open_service(place.settings) as service:
        run_threads(lambda: ask_often(service, errors))
        assert not errors
        assert service.pool_stats().pool_size > 3


def test_a_statement_that_is_given_up_ends_on_the_server(make_place: MakePlace) -> None:
    """Process numbers of the pooler cannot be cancelled, so the server notices that nobody waits."""
    place = make_place(Variant(pooler=NOTHING))
    running = (
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%asleep%%' AND pid <> pg_backend_pid()"
    )
    with connected(place.administrator_url) as run:
        service = open_service(place.settings)

        def sleep() -> None:
            with contextlib.suppress(DatabaseUnavailable), service._database.session("sleep") as database:
                database.execute_sql("SELECT pg_sleep(100) /* asleep */")

        thread = threading.Thread(target=sleep)
        thread.start()
        wait_until(lambda: run(running) == [(1,)], "it runs", 20.0)
        service.close(drain_seconds=0.1)
        thread.join(10)
        assert not thread.is_alive()
        wait_until(lambda: run(running) == [(0,)], "it has ended", 20.0)


@pytest.mark.parametrize("ignored", [False, True])
def test_a_pooler_is_told_once(
    make_place: MakePlace, caplog: pytest.LogCaptureFixture, *, ignored: bool
) -> None:
    """One line of the log names the pooler, however many connections a process opens."""
    pooler = {"ignore_startup_parameters": "options"} if ignored else NOTHING
    place = make_place(Variant(pooler=pooler))
    caplog.clear()
    with caplog.at_level(logging.INFO, "core.database.connector"), open_service(place.settings) as service:
        errors: list[BaseException] = []
        run_threads(lambda: ask_often(service, errors))
    said = {record.getMessage() for record in caplog.records}
    verb = "drops" if ignored else "refuses"
    assert said == {f"a pooler {verb} start-up options; each transaction gets its settings"}
    assert len(caplog.records) <= THREADS


def with_options(settings: Settings, options: str) -> Settings:
    """Return settings whose URL has options."""
    url = settings.database_url.get_secret_value()
    return settings.model_copy(update={"database_url": SecretStr(f"{url}?options={options}")})


def test_options_of_the_url_hold_behind_a_pooler(make_place: MakePlace) -> None:
    """Options hold for every statement; an option that only the start of a session can set is refused."""
    place = make_place(Variant(pooler=NOTHING))
    with open_service(with_options(place.settings, "-c%20work_mem%3D7MB%20--temp-buffers%3D9MB")) as service:
        for unit in (service._database.session, service._database.transaction_of):
            with unit("ask") as database:
                for _ in range(3):
                    question = "SELECT current_setting('work_mem'), current_setting('temp_buffers')"
                    assert database.execute_sql(question).fetchone() == ("7MB", "9MB")
    with (
        open_service(with_options(place.settings, "-d%203")) as service,
        pytest.raises(DatabaseUnavailable, match="-d in the options of DATABASE_URL cannot be set later"),
    ):
        service.search_users("a")


@pytest.mark.slow
def test_a_pooler_that_ends_idle_clients_costs_no_write(make_place: MakePlace) -> None:
    """The pooler closes clients that idle for a second; a write every two seconds still succeeds."""
    place = make_place(Variant(pooler={"client_idle_timeout": "1"}))
    with open_service(place.settings) as service:
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
def test_a_pooler_that_ends_a_connection_is_quoted(
    make_place: MakePlace, options: dict[str, str], words: str
) -> None:
    """The error quotes the pooler; the driver only says that the connection is closed."""
    with open_service(make_place(Variant(pooler=options)).settings) as service:
        with (
            pytest.raises(DatabaseUnavailable, match=words),
            service._database.transaction_of("slow") as database,
        ):
            database.execute_sql("SELECT pg_sleep(0.1)")
            if "idle" in words:
                threading.Event().wait(2.5)
            database.execute_sql("SELECT pg_sleep(4)")
        assert service.search_users("nobody") == ()


def test_a_process_lock_is_nowhere_left_behind(make_place: MakePlace) -> None:
    """Its holder keeps the lock until it is cut off from the pooler; then the other one gets it."""
    place = make_place(Variant(pooler=NOTHING))
    alice, bob = (open_process_lock(place.settings, 0x74657374, role="simulator") for _ in range(2))
    assert [alice.hold(), bob.hold(), alice.hold(), bob.hold()] == [True, False, True, False]
    assert alice._raw is not None
    sever(alice._raw)
    wait_until(bob.hold, "the lock is given up", 20.0)
    with pytest.raises(DatabaseUnavailable):
        alice.hold()
    assert not alice.hold()
    for lock in (alice, bob):
        lock.release()
