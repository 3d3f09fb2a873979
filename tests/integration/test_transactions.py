"""`service.transaction()`: its calls are committed together or not at all.

Only the thread of the transaction sees its rows before the commit; cache keys are invalidated at the commit.
"""

import multiprocessing
import os
import signal
import threading
from decimal import Decimal

import pytest
import redis

from core import EnhancedDatabaseService, Settings, open_service
from core.database import Database
from core.errors import DatabaseError, DatabaseUnavailable, InvalidInput, UserNotFound
from core.records import User
from tests.conftest import Execute
from tests.patience import wait_until

TERMINATE = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""


def is_value(client: redis.Redis, user: User) -> bool:
    """Return whether Redis holds the profile of a user, and not only a lease or a fence for its key."""
    stored = client.get(f"user:{user.id}")
    return isinstance(stored, bytes) and stored.startswith(b"V")


def test_calls_of_a_transaction_are_committed_together(service: EnhancedDatabaseService, alice: User) -> None:
    """After the commit a read returns the rows that every call of the transaction wrote."""
    with service.transaction():
        service.update_user_profile(alice.id, name="New")
        bob = service.create_user(username="bob")
        service.update_leaderboard_entry(bob.id, "b", Decimal(1))
    assert service.get_user_by_id(alice.id).name == "New"
    assert service.get_leaderboard("b")[0].username == "bob"


def test_an_error_undoes_everything(
    service: EnhancedDatabaseService, alice: User, execute: Execute, redis_client: redis.Redis
) -> None:
    """If the block raises, no row is changed and the cached profile stays in Redis."""
    service.get_user_by_id(alice.id)
    stored = redis_client.get(f"user:{alice.id}")

    def write_and_fail() -> None:
        with service.transaction():
            service.update_user_profile(alice.id, name="New")
            service.create_user(username="bob")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert execute("SELECT username, name FROM users") == [("alice", alice.name)]
    assert redis_client.get(f"user:{alice.id}") == stored
    assert service.get_user_by_id(alice.id) == alice


def test_uncommitted_rows_are_seen_by_their_thread_only(
    service: EnhancedDatabaseService, settings: Settings, alice: User
) -> None:
    """Before the commit only the writing thread reads the new row; all others read the old row."""
    service.get_user_by_id(alice.id)
    seen: list[str | None] = []
    with open_service(settings) as other, service.transaction():
        service.update_user_profile(alice.id, name="New")
        assert service.get_user_by_id(alice.id).name == "New"
        thread = threading.Thread(target=lambda: seen.append(service.get_user_by_id(alice.id).name))
        thread.start()
        thread.join(10)
        seen.append(other.get_user_by_id(alice.id).name)
    assert seen == [alice.name, alice.name]
    assert service.get_user_by_id(alice.id).name == "New"


def test_reads_inside_a_transaction_are_not_cached(service: EnhancedDatabaseService, alice: User) -> None:
    """After a rollback no reader gets a row that was read inside the transaction."""

    def read_and_fail() -> None:
        with service.transaction():
            service.update_user_profile(alice.id, name="Never")
            assert service.get_user_by_id(alice.id).name == "Never"
            assert service.search_users("never")[0].id == alice.id
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        read_and_fail()
    assert service.get_user_by_id(alice.id) == alice


def test_a_caught_error_undoes_only_its_call(
    service: EnhancedDatabaseService, alice: User, execute: Execute
) -> None:
    """If the block catches the error of one call, its other calls are committed."""
    with service.transaction():
        service.update_user_profile(alice.id, name="New")
        with pytest.raises(InvalidInput, match="is taken"):
            service.create_user(username="alice")
        service.create_user(username="bob")
    assert execute("SELECT username, name FROM users ORDER BY 1") == [("alice", "New"), ("bob", None)]


def test_a_failed_query_leaves_the_transaction_usable(service: EnhancedDatabaseService, alice: User) -> None:
    """If the block catches the error of a query, the transaction can read and write and is committed."""

    def divide(database: Database) -> object:
        return database.execute_sql("SELECT 1 / 0")

    with service.transaction():
        service.update_user_profile(alice.id, name="New")
        with pytest.raises(DatabaseError):
            service._database.read("divide", divide)
        service.update_user_profile(alice.id, email="new@example.com")
        assert service.get_user_by_username("alice").name == "New"
    assert service.get_user_by_id(alice.id).email == "new@example.com"


def test_transactions_nest_and_invalidate_once(
    service: EnhancedDatabaseService, alice: User, bob: User, redis_client: redis.Redis
) -> None:
    """A nested transaction commits and invalidates with the outermost; its error undoes only its calls."""
    service.get_user_by_id(alice.id)
    service.get_user_by_id(bob.id)
    with service.transaction():
        with service.transaction():
            service.update_user_profile(alice.id, name="Inner")
        assert is_value(redis_client, alice)
        with pytest.raises(LookupError), service.transaction():
            service.update_user_profile(bob.id, name="Undone")
            raise LookupError("undo")
    assert redis_client.get(f"user:{alice.id}") is None
    assert is_value(redis_client, bob), "rolled back, so not dropped"
    assert service.get_user_by_id(alice.id).name == "Inner"
    assert service.get_user_by_id(bob.id).name is None


def test_a_rollback_does_not_affect_another_thread(service: EnhancedDatabaseService, alice: User) -> None:
    """While two threads have open transactions, the rollback of one does not undo the rows of the other."""
    barrier = threading.Barrier(2)

    def create(name: str, *, fails: bool) -> None:
        with service.transaction():
            service.create_user(username=name)
            barrier.wait(10)
            if fails:
                raise RuntimeError("no")

    good = threading.Thread(target=lambda: create("good", fails=False))
    good.start()
    with pytest.raises(RuntimeError):
        create("bad", fails=True)
    good.join(10)
    assert service.get_user_by_username("good").username == "good"
    with pytest.raises(UserNotFound):
        service.get_user_by_username("bad")


def test_a_lost_connection_before_the_commit_changes_nothing(
    service: EnhancedDatabaseService, alice: User, execute: Execute
) -> None:
    """The caller gets `DatabaseUnavailable`, the row is unchanged, and no connection stays checked out."""

    def lose() -> None:
        with service.transaction():
            service.update_user_profile(alice.id, name="Lost")
            execute(TERMINATE)
            service.update_user_profile(alice.id, email="lost@example.com")

    with pytest.raises(DatabaseUnavailable):
        lose()
    assert service.get_user_by_id(alice.id) == alice
    assert service.pool_stats().pool_in_use == 0


def test_a_commit_without_a_reply_invalidates(
    service: EnhancedDatabaseService,
    settings: Settings,
    alice: User,
    execute: Execute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the reply to a COMMIT is lost, the caller gets an error and every process reads the new row."""
    service.get_user_by_id(alice.id)
    commit = Database.commit

    def commit_and_lose(database: Database) -> None:
        commit(database)
        execute(TERMINATE)
        database.execute_sql("SELECT 1")

    monkeypatch.setattr(Database, "commit", commit_and_lose)
    with pytest.raises(DatabaseUnavailable):
        service.update_user_profile(alice.id, name="Committed")
    monkeypatch.undo()
    assert service.get_user_by_id(alice.id).name == "Committed"
    with open_service(settings) as other:
        assert other.get_user_by_id(alice.id).name == "Committed"


def _die_while_writing(settings: Settings, user_id: object, step: str) -> None:
    """Change the name of a user, and kill this process at a step of the write (runs in a child process)."""
    service = open_service(settings)
    methods = {"before fence": "fence", "after fence": "fence", "after commit": "invalidate"}
    original = getattr(service._cache, methods[step])

    def die(*arguments: object, **options: object) -> object:
        if step == "after fence":
            original(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(service._cache, methods[step], die)
    service.update_user_profile(user_id, name=step)  # type: ignore[arg-type]  # a UUID


@pytest.mark.parametrize("step", ["before fence", "after fence", "after commit"])
def test_a_writer_killed_at_any_step_leaves_nothing_stale(
    service: EnhancedDatabaseService, settings: Settings, alice: User, step: str
) -> None:
    """After a writer is killed, this process and another one read the row that is committed."""
    service.get_user_by_id(alice.id)
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=_die_while_writing, args=(settings, alice.id, step))
    writer.start()
    writer.join(30)
    assert writer.exitcode == -signal.SIGKILL
    expected = step if step == "after commit" else alice.name
    with open_service(settings) as other:
        assert other.get_user_by_id(alice.id).name == expected
    wait_until(lambda: service.get_user_by_id(alice.id).name == expected, "this process sees it too", 1.0)


def test_a_table_can_be_loaded_twice_in_one_transaction(
    service: EnhancedDatabaseService, alice: User
) -> None:
    """The second load of a table in a transaction does not contain the staged rows of the first load."""
    portfolios = [service.get_current_portfolio(alice.id)]
    with service.transaction():
        assert service.load_portfolios(portfolios) == 0
        assert service.load_portfolios(portfolios) == 0
