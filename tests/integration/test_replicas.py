"""Read replicas: where reads run, and that nothing older than a write comes from one."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from core import EnhancedDatabaseService, Settings, open_service
from core.cache.lsn_slots import UNKNOWN_MILLISECONDS
from core.errors import DatabaseUnavailable, InvalidInput
from core.migration import Migrator
from core.testing import ValkeyServer, run_postgres
from tests.conftest import connected
from tests.patience import stretch, wait_until
from tests.replicas import (
    ON_REPLICA,
    OPTIONS,
    ReplicaPair,
    count_reads,
    hung,
    run_pair,
    run_replica,
    wait_until_used,
)


@pytest.fixture(scope="module")
def pair(server_directory: Callable[[], Path]) -> Iterator[ReplicaPair]:
    """A migrated primary with a replica."""
    with run_pair(server_directory) as pair:
        Migrator(pair.settings(None)).up()
        pair.wait_until_replayed()
        yield pair


@pytest.fixture
def settings(pair: ReplicaPair, valkey_server: ValkeyServer) -> Iterator[Settings]:
    """Settings of a process with the replica, and an empty Redis."""
    with redis.Redis(port=valkey_server.port, password=valkey_server.password) as client:
        client.flushall()
        yield pair.settings(valkey_server)


@pytest.fixture
def service(settings: Settings) -> Iterator[EnhancedDatabaseService]:
    """A process that reads from the replica."""
    with open_service(settings) as service:
        wait_until_used(service)
        yield service


def add_user(service: EnhancedDatabaseService) -> str:
    """Create a user; return the id."""
    return str(service.create_user(username=f"u{uuid4().hex[:12]}").id)


def count_on(service: EnhancedDatabaseService, server: str) -> int:
    """Return how many reads ran on the primary, or on the replica."""
    return sum(number for (where, _), number in count_reads(service).items() if where == server)


def know_slots(service: EnhancedDatabaseService, user_id: str) -> None:
    """Wait until the cache knows the LSN of what it lacks of a user."""

    def is_read_on_replica() -> bool:
        before = count_reads(service).get(ON_REPLICA, 0)
        service.clear_user_cache(uuid4())
        forget(service, f"user:{user_id}")
        service.get_user_by_id(user_id)
        return count_reads(service).get(ON_REPLICA, 0) > before

    wait_until(is_read_on_replica, "the LSN is known", 20.0)


def forget(service: EnhancedDatabaseService, key: str) -> None:
    """Let a value leave the caches as if it had expired."""
    service._cache._shared._client.execute("DEL", key)  # type: ignore[union-attr]  # the cache is on
    service._cache._near.clear()


def test_cold_reads_run_on_the_replica(service: EnhancedDatabaseService) -> None:
    """A missing value is loaded from the replica once its LSN is known."""
    user_id = add_user(service)
    know_slots(service, user_id)
    before = count_on(service, "primary") + count_on(service, "replica")
    forget(service, f"user:{user_id}")
    assert str(service.get_user_by_id(user_id).id) == user_id
    assert count_on(service, "primary") + count_on(service, "replica") == before + 1


def test_a_reader_never_fills_from_before_an_invalidation(
    service: EnhancedDatabaseService, settings: Settings, pair: ReplicaPair
) -> None:
    """While replay is paused, another process loads the written value from the primary."""
    user_id = add_user(service)
    know_slots(service, user_id)
    with open_service(settings) as other, pair.paused():
        wait_until(lambda: service.get_user_by_id(user_id) is not None, "it is read", 20.0)
        for number in range(20):
            service.update_user_profile(user_id, name=f"name {number}")
            forget(other, "nothing")
            assert other.get_user_by_id(user_id).name == f"name {number}"
            assert service.get_user_by_id(user_id).name == f"name {number}"


def test_an_uncached_read_sees_what_its_process_wrote(
    service: EnhancedDatabaseService, pair: ReplicaPair
) -> None:
    """Without a cache, a read of what the replica does not have yet runs on the primary."""
    user_id = add_user(service)
    pair.wait_until_replayed()
    with pair.paused():
        name = f"n{uuid4().hex[:12]}"
        service.update_user_profile(user_id, username=name)
        before = count_on(service, "primary")
        assert str(service.get_user_by_username(name).id) == user_id
        assert count_on(service, "primary") == before + 1


def test_a_token_carries_what_was_written_to_another_process(
    service: EnhancedDatabaseService, settings: Settings, pair: ReplicaPair
) -> None:
    """In the block a read of another process sees the write; a text that is no token is refused."""
    user_id = add_user(service)
    pair.wait_until_replayed()
    with open_service(settings) as other:
        wait_until_used(other)
        other.get_user_by_id(user_id)
        with pair.paused():
            name = f"n{uuid4().hex[:12]}"
            service.update_user_profile(user_id, username=name)
            with other.at_least(service.consistency_token()):
                assert str(other.get_user_by_username(name).id) == user_id
                assert other.get_user_by_id(user_id).username == name
        with pytest.raises(InvalidInput, match="consistency_token"):
            other.at_least("yesterday")


def test_a_replica_that_is_behind_is_left_out_and_comes_back(
    service: EnhancedDatabaseService, pair: ReplicaPair
) -> None:
    """The reason says how far it is behind; the breaker closes without a call."""
    with pair.paused():
        add_user(service)
        wait_until(lambda: "behind" in (service.replica_stats()[0].reason or ""), "it is left out", 20.0)
        before = count_on(service, "primary")
        service.list_session_dates()
        assert count_on(service, "primary") == before + 1
    wait_until_used(service)


def test_a_stopped_receiver_costs_no_correctness(service: EnhancedDatabaseService, pair: ReplicaPair) -> None:
    """Without the log the replica is not used; it is used again when the receiver continues."""
    user_id = add_user(service)
    with pair.stopped_receiver():
        service.update_user_profile(user_id, name="new")
        assert service.get_user_by_id(user_id).name == "new"
        wait_until(lambda: service.replica_stats()[0].reason is not None, "it is left out", 20.0)
    wait_until_used(service)


def test_a_flushed_redis_makes_lsns_unknown(
    service: EnhancedDatabaseService, settings: Settings, pair: ReplicaPair
) -> None:
    """After a flush reads run on the primary until the replica must have replayed every write."""
    user_id = add_user(service)
    know_slots(service, user_id)
    with pair.paused():
        service.update_user_profile(user_id, name="new")
        service._cache._shared._client.execute("FLUSHALL")  # type: ignore[union-attr]  # the cache is on
        before = count_on(service, "primary")
        assert service.get_user_by_id(user_id).name == "new"
        assert count_on(service, "primary") == before + 1


def test_an_invalidation_without_an_lsn_is_unknown_for_a_while(
    service: EnhancedDatabaseService, settings: Settings
) -> None:
    """A process without replicas stores no LSN, so its keys are first loaded from the primary."""
    user_id = add_user(service)
    know_slots(service, user_id)
    with open_service(settings.model_copy(update={"database_replica_urls": None})) as plain:
        plain.update_user_profile(user_id, name="new")
    began = time.monotonic()
    before = count_reads(service)
    assert service.get_user_by_id(user_id).name == "new"
    after = count_reads(service)
    assert after[ON_REPLICA] == before[ON_REPLICA] or time.monotonic() - began > UNKNOWN_MILLISECONDS / 1000
    know_slots(service, user_id)


def test_a_commit_that_was_cancelled_may_have_happened(
    service: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation of the query for the LSN is no failed write, and leaves no old value."""
    user_id = add_user(service)
    know_slots(service, user_id)
    monkeypatch.setattr(
        "core.database.database_with_replicas.SELECT_LSN",
        "SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(20)",
    )
    with pytest.raises(DatabaseUnavailable), service.transaction():
        service.update_user_profile(user_id, name="committed")
    assert service.get_user_by_id(user_id).name == "committed"
    service.touch_last_active(user_id)
    assert service.get_user_by_id(user_id).last_active is not None


def test_without_the_setting_nothing_is_counted_or_stored(
    settings: Settings, valkey_server: ValkeyServer
) -> None:
    """A process without replicas has no slots, no series and no replica state."""
    with open_service(settings.model_copy(update={"database_replica_urls": None})) as plain:
        user_id = add_user(plain)
        plain.update_user_profile(user_id, name="new")
        assert plain.get_user_by_id(user_id).name == "new"
        assert plain.replica_stats() == ()
        assert count_reads(plain) == {}
    with redis.Redis(port=valkey_server.port, password=valkey_server.password) as client:
        assert client.keys("positions/*") == []


def test_a_replica_that_hangs_is_killed_or_is_promoted_costs_no_call(
    server_directory: Callable[[], Path], valkey_server: ValkeyServer
) -> None:
    """The primary answers each call meanwhile; a replica that returns is used again."""
    directory = server_directory()
    with run_postgres(server_directory(), options=OPTIONS) as primary, ExitStack() as stack:
        with run_replica(directory, primary) as replica:
            pair = ReplicaPair(primary, replica)
            settings = pair.settings(valkey_server, database_query_timeout=20_000)
            Migrator(settings).up()
            service = stack.enter_context(open_service(settings))
            wait_until_used(service)
            with hung(replica):
                began = time.monotonic()
                add_user(service)
                service.list_session_dates()
                assert time.monotonic() - began < stretch(5), "not the query timeout"
                wait_until(lambda: service.replica_stats()[0].reason is not None, "it is left out", 20.0)
            wait_until_used(service)
            os.kill(replica.pid, signal.SIGQUIT)
            for _ in range(5):
                service.list_session_dates()
        wait_until(lambda: service.replica_stats()[0].reason is not None, "it is left out", 20.0)
        with run_replica(directory, primary, port=replica.port) as again:
            wait_until_used(service)
            before = count_on(service, "replica")

            def is_read_on_replica() -> bool:
                service.list_session_dates()
                return count_on(service, "replica") > before

            wait_until(is_read_on_replica, "it is read from again", 20.0)
            with connected(again.url()) as run:
                run("SELECT pg_promote()")
            service.update_user_profile(add_user(service), name="after the promotion")
            before = count_on(service, "replica")
            service.list_session_dates()
            assert count_on(service, "replica") == before
            wait_until(
                lambda: "no replica" in (service.replica_stats()[0].reason or ""), "it is left out", 20.0
            )
