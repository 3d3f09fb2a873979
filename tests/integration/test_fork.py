"""Forked children: connections, transactions and a cache of their own, the parent's untouched."""

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


def backend_of(service: EnhancedDatabaseService) -> int:
    """Return the server's process that serves this thread."""
    with service._database.session("pid") as database:
        return int(database.execute_sql("SELECT pg_backend_pid()").fetchone()[0])


def test_a_child_has_connections_of_its_own(service: EnhancedDatabaseService) -> None:
    """The child uses a new connection, and the parent's still works afterwards."""
    before = backend_of(service)
    assert ask_child(lambda: backend_of(service)) != before == backend_of(service)


def test_a_child_of_a_transaction_takes_no_part_in_it(
    service: EnhancedDatabaseService, alice: User, bob: User, execute: Execute
) -> None:
    """Neither its reads nor its writes go through the parent's connection."""

    def work() -> list[object]:
        seen = service.get_user_by_id(alice.id).name
        service.update_user_profile(bob.id, name="of the child")
        return [backend_of(service), seen, execute("SELECT name FROM users WHERE id = %s", (bob.id,))]

    with service.transaction():
        service.update_user_profile(alice.id, name="of the parent")
        before = backend_of(service)
        backend, seen, stored = ask_child(work)
        assert backend_of(service) == before
    assert backend != before
    assert seen == alice.name, "what is not committed is the parent's alone"
    assert stored == [["of the child"]], "committed by the child itself"
    assert service.get_user_by_id(alice.id).name == "of the parent"
    assert service.get_user_by_id(bob.id).name == "of the child"


@pytest.mark.parametrize("depth", [1, 2])
def test_a_child_cannot_end_the_transaction_of_its_parent(
    service: EnhancedDatabaseService, alice: User, execute: Execute, depth: int
) -> None:
    """A child that leaves the block gets an error; the parent commits, all or nothing, later."""
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


def test_a_child_keeps_a_near_tier_of_its_own(service: EnhancedDatabaseService, alice: User) -> None:
    """The child drops the parent's values, and subscribes with its own feed."""
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


def test_a_child_waits_for_no_lock_of_a_thread_that_it_does_not_have(
    service: EnhancedDatabaseService, alice: User
) -> None:
    """Threads of the cache hold locks at the fork; the child still works and closes its cache."""
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
