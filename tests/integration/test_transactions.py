"""Grouped calls: all or none, seen by the writer alone, invalidated once at the commit."""

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
    """Say whether a profile is cached: neither missing, nor leased or fenced."""
    stored = client.get(f"user:{user.id}")
    return isinstance(stored, bytes) and stored.startswith(b"V")


def test_all_is_committed_at_the_end(service: EnhancedDatabaseService, alice: User) -> None:
    """Two calls are committed together; afterwards everybody sees both."""
    with service.transaction():
        service.update_user_profile(alice.id, name="New")
        bob = service.create_user(username="bob")
        service.update_leaderboard_entry(bob.id, "b", Decimal(1))
    assert service.get_user_by_id(alice.id).name == "New"
    assert service.get_leaderboard("b")[0].username == "bob"


def test_an_error_undoes_everything(
    service: EnhancedDatabaseService, alice: User, execute: Execute, redis_client: redis.Redis
) -> None:
    """Nothing is stored, and no key is invalidated."""
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


def test_the_writer_sees_its_writes_and_nobody_else(
    service: EnhancedDatabaseService, settings: Settings, alice: User
) -> None:
    """Inside, the thread reads from the database; other threads and processes read what is committed."""
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


def test_what_is_read_inside_is_not_cached(service: EnhancedDatabaseService, alice: User) -> None:
    """No reader finds a value of a transaction that is rolled back."""

    def read_and_fail() -> None:
        with service.transaction():
            service.update_user_profile(alice.id, name="Never")
            assert service.get_user_by_id(alice.id).name == "Never"
            assert service.search_users("never")[0].id == alice.id
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        read_and_fail()
    assert service.get_user_by_id(alice.id) == alice


def test_an_error_that_is_caught_undoes_its_call_alone(
    service: EnhancedDatabaseService, alice: User, execute: Execute
) -> None:
    """The rest of the transaction continues."""
    with service.transaction():
        service.update_user_profile(alice.id, name="New")
        with pytest.raises(InvalidInput, match="is taken"):
            service.create_user(username="alice")
        service.create_user(username="bob")
    assert execute("SELECT username, name FROM users ORDER BY 1") == [("alice", "New"), ("bob", None)]


def test_a_read_that_fails_undoes_nothing_else(service: EnhancedDatabaseService, alice: User) -> None:
    """A refused query that is caught leaves the transaction usable."""

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
    """Only the outermost commit commits, and invalidates the keys."""
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


def test_threads_have_transactions_of_their_own(service: EnhancedDatabaseService, alice: User) -> None:
    """A rollback of one thread does not affect another."""
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
    """The caller gets an error, the pool recovers, and the row is unchanged."""

    def lose() -> None:
        with service.transaction():
            service.update_user_profile(alice.id, name="Lost")
            execute(TERMINATE)
            service.update_user_profile(alice.id, email="lost@example.com")

    with pytest.raises(DatabaseUnavailable):
        lose()
    assert service.get_user_by_id(alice.id) == alice
    assert service.pool_stats().pool_in_use == 0


def test_an_ambiguous_commit_invalidates(
    service: EnhancedDatabaseService,
    settings: Settings,
    alice: User,
    execute: Execute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server commits and its reply is lost: the caller gets an error, readers the new row."""
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
    """Change a name in a process of its own, which is killed at a step of the write."""
    service = open_service(settings)
    parts = {"before fence": "fence", "after fence": "fence", "after commit": "invalidate"}
    original = getattr(service._cache, parts[step])

    def die(*arguments: object, **options: object) -> object:
        if step == "after fence":
            original(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(service._cache, parts[step], die)
    service.update_user_profile(user_id, name=step)  # type: ignore[arg-type]  # a UUID


@pytest.mark.parametrize("step", ["before fence", "after fence", "after commit"])
def test_a_writer_killed_at_any_step_leaves_nothing_stale(
    service: EnhancedDatabaseService, settings: Settings, alice: User, step: str
) -> None:
    """Afterwards every reader of this process and another reads what was committed."""
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
    """The second load does not find the staged rows of the first."""
    portfolios = [service.get_current_portfolio(alice.id)]
    with service.transaction():
        assert service.load_portfolios(portfolios) == 0
        assert service.load_portfolios(portfolios) == 0
