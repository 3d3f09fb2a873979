"""Tests of forked children: a child uses its own connections, transactions and near cache."""

import contextlib
import os
import signal

import pytest

from core import EnhancedDatabaseService
from core.records import User
from tests.conftest import Execute
from tests.forking import ask_child

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]


def get_backend_pid(service: EnhancedDatabaseService) -> int:
    """Return the pid of the PostgreSQL backend that serves this thread."""
    with service._database.session("pid") as database:
        return int(database.execute_sql("SELECT pg_backend_pid()").fetchone()[0])


def test_a_child_has_connections_of_its_own(service: EnhancedDatabaseService) -> None:
    """A child uses a new connection, and the parent keeps its own."""
    before = get_backend_pid(service)
    assert ask_child(lambda: get_backend_pid(service)) != before == get_backend_pid(service)


def test_a_child_is_outside_of_the_parents_transaction(
    service: EnhancedDatabaseService, alice: User, bob: User, execute: Execute
) -> None:
    """A child forked inside a transaction reads and writes on its own connection, outside of it."""

    def work() -> list[object]:
        seen = service.get_user_by_id(alice.id).name
        service.update_user_profile(bob.id, name="of the child")
        return [get_backend_pid(service), seen, execute("SELECT name FROM users WHERE id = %s", (bob.id,))]

    with service.transaction():
        service.update_user_profile(alice.id, name="of the parent")
        before = get_backend_pid(service)
        backend, seen, stored = ask_child(work)
        assert get_backend_pid(service) == before
    assert backend != before
    assert seen == alice.name, "the child does not see the parent's uncommitted row"
    assert stored == [["of the child"]], "the child has committed its own write"
    assert service.get_user_by_id(alice.id).name == "of the parent"
    assert service.get_user_by_id(bob.id).name == "of the child"


@pytest.mark.parametrize("depth", [1, 2])
def test_a_child_cannot_end_the_transaction_of_its_parent(
    service: EnhancedDatabaseService, alice: User, execute: Execute, depth: int
) -> None:
    """A child that leaves the parent's transaction block gets an error. The parent commits all its writes."""
    reader, writer = os.pipe()
    parent = os.getpid()

    def write_and_fork(left: int) -> None:
        with service.transaction():
            if left > 1:
                return write_and_fork(left - 1)
            service.update_user_profile(alice.id, name="first")
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                assert execute("SELECT name FROM users WHERE id = %s", (alice.id,)) == [(alice.name,)]
                service.update_user_profile(alice.id, email="second@example.com")
        return None

    answer = "committed"
    try:
        write_and_fork(depth)
    except Exception as error:
        answer = type(error).__name__
    finally:
        if os.getpid() != parent:
            os.write(writer, answer.encode())
            os._exit(0)
    assert answer == "committed"
    assert os.read(reader, 100) == b"DatabaseError"
    os.close(reader)
    os.close(writer)
    changed = service.get_user_by_id(alice.id)
    assert (changed.name, changed.email) == ("first", "second@example.com")


def test_a_child_has_its_own_near_cache(service: EnhancedDatabaseService, alice: User) -> None:
    """A child starts with an empty near cache, and receives invalidations through its own feed."""
    service.get_user_by_id(alice.id)

    def work() -> list[object]:
        before = service._cache._near.get(f"user:{alice.id}") is None
        service.update_user_profile(alice.id, name="New")
        for _ in range(400):
            service.get_user_by_id(alice.id)
            if service._cache._near.get(f"user:{alice.id}") is not None:
                break
            os.sched_yield()
        return [before, service.get_user_by_id(alice.id).name]

    assert ask_child(work) == [True, "New"]
    assert service.get_user_by_id(alice.id).name == "New"


def test_a_child_does_not_wait_for_locks_of_the_parents_threads(
    service: EnhancedDatabaseService, alice: User
) -> None:
    """A child works and closes its cache, although the parent's threads held cache locks at the fork."""
    cache = service._cache
    assert cache._shared is not None
    assert cache._feed is not None

    def work() -> str:
        signal.alarm(60)
        service.update_user_profile(alice.id, name="of the child")
        cache._shared.give_up(["user:nobody"])  # type: ignore[union-attr]  # asserted above
        name = service.get_user_by_id(alice.id).name
        cache.close()
        return name or ""

    with contextlib.ExitStack() as held:
        for event in (cache._feed._stopping, cache._sampler._stopping, cache._shared.guard.recovery._closing):
            held.enter_context(event._cond)  # type: ignore[attr-defined]  # what `set` and `wait` take
        assert ask_child(work) == "of the child"
    assert service.get_user_by_id(alice.id).name == "of the child"
