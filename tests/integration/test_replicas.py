"""Read replicas: which reads use them, and that no read returns values older than an earlier write."""

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
    """Yield a migrated primary with a replica."""
    with run_pair(server_directory) as pair:
        Migrator(pair.settings(None)).up()
        pair.wait_until_replayed()
        yield pair


@pytest.fixture
def settings(pair: ReplicaPair, valkey_server: ValkeyServer) -> Iterator[Settings]:
    """Yield settings with the replica and an empty Redis."""
    with redis.Redis(port=valkey_server.port, password=valkey_server.password) as client:
        client.flushall()
        yield pair.settings(valkey_server)


@pytest.fixture
def service(settings: Settings) -> Iterator[EnhancedDatabaseService]:
    """Yield a service that reads from the replica."""
    with open_service(settings) as service:
        wait_until_used(service)
        yield service


def add_user(service: EnhancedDatabaseService) -> str:
    """Create a user and return the id."""
    return str(service.create_user(username=f"u{uuid4().hex[:12]}").id)


def count_reads_on(service: EnhancedDatabaseService, server: str) -> int:
    """Return how many reads ran on `server`: "primary" or "replica"."""
    return sum(number for (where, _), number in count_reads(service).items() if where == server)


def wait_until_lsn_is_known(service: EnhancedDatabaseService, user_id: str) -> None:
    """Read the user uncached until a read runs on the replica: then the LSN of the last write is known."""

    def is_read_on_replica() -> bool:
        before = count_reads(service).get(ON_REPLICA, 0)
        service.clear_user_cache(uuid4())
        drop_cached_value(service, f"user:{user_id}")
        service.get_user_by_id(user_id)
        return count_reads(service).get(ON_REPLICA, 0) > before

    wait_until(is_read_on_replica, "the LSN of the user's last write is known", 20.0)


def drop_cached_value(service: EnhancedDatabaseService, key: str) -> None:
    """Delete a value from Redis and clear the near cache, as if the value had expired."""
    service._cache._shared._client.execute("DEL", key)  # type: ignore[union-attr]  # the cache is on
    service._cache._near.clear()


def test_a_missing_value_is_loaded_once(service: EnhancedDatabaseService) -> None:
    """A missing value is loaded with one read."""
    user_id = add_user(service)
    wait_until_lsn_is_known(service, user_id)
    before = count_reads_on(service, "primary") + count_reads_on(service, "replica")
    drop_cached_value(service, f"user:{user_id}")
    assert str(service.get_user_by_id(user_id).id) == user_id
    assert count_reads_on(service, "primary") + count_reads_on(service, "replica") == before + 1


def test_the_cache_is_not_filled_from_an_old_replica(
    service: EnhancedDatabaseService, settings: Settings, pair: ReplicaPair
) -> None:
    """While replay is paused, another process reads each new value, never the replica's older value."""
    user_id = add_user(service)
    wait_until_lsn_is_known(service, user_id)
    with open_service(settings) as other, pair.paused():
        wait_until(lambda: service.get_user_by_id(user_id) is not None, "the user is read", 20.0)
        for number in range(20):
            service.update_user_profile(user_id, name=f"name {number}")
            drop_cached_value(other, "nothing")
            assert other.get_user_by_id(user_id).name == f"name {number}"
            assert service.get_user_by_id(user_id).name == f"name {number}"


def test_an_uncached_read_sees_own_writes(service: EnhancedDatabaseService, pair: ReplicaPair) -> None:
    """An uncached read of a row that the replica does not have yet runs on the primary."""
    user_id = add_user(service)
    pair.wait_until_replayed()
    with pair.paused():
        name = f"n{uuid4().hex[:12]}"
        service.update_user_profile(user_id, username=name)
        before = count_reads_on(service, "primary")
        assert str(service.get_user_by_username(name).id) == user_id
        assert count_reads_on(service, "primary") == before + 1


def test_a_token_makes_a_write_visible_to_another_process(
    service: EnhancedDatabaseService, settings: Settings, pair: ReplicaPair
) -> None:
    """With the writer's consistency token another process reads the write; an invalid token is refused."""
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


def test_a_lagging_replica_is_not_used(service: EnhancedDatabaseService, pair: ReplicaPair) -> None:
    """A replica that is behind is not used, and replica_stats says why; once it has caught up, it is used."""
    with pair.paused():
        add_user(service)
        wait_until(
            lambda: "behind" in (service.replica_stats()[0].reason or ""), "the replica is not used", 20.0
        )
        before = count_reads_on(service, "primary")
        service.list_session_dates()
        assert count_reads_on(service, "primary") == before + 1
    wait_until_used(service)


def test_a_replica_without_a_receiver_is_not_used(
    service: EnhancedDatabaseService, pair: ReplicaPair
) -> None:
    """A replica whose WAL receiver is stopped is not used; it is used again when the receiver continues."""
    user_id = add_user(service)
    with pair.stopped_receiver():
        service.update_user_profile(user_id, name="new")
        assert service.get_user_by_id(user_id).name == "new"
        wait_until(lambda: service.replica_stats()[0].reason is not None, "the replica is not used", 20.0)
    wait_until_used(service)


def test_a_flushed_redis_makes_lsns_unknown(
    service: EnhancedDatabaseService, settings: Settings, pair: ReplicaPair
) -> None:
    """After FLUSHALL the LSNs of writes are unknown, so reads run on the primary."""
    user_id = add_user(service)
    wait_until_lsn_is_known(service, user_id)
    with pair.paused():
        service.update_user_profile(user_id, name="new")
        service._cache._shared._client.execute("FLUSHALL")  # type: ignore[union-attr]  # the cache is on
        before = count_reads_on(service, "primary")
        assert service.get_user_by_id(user_id).name == "new"
        assert count_reads_on(service, "primary") == before + 1


def test_an_invalidation_without_an_lsn_reads_the_primary(
    service: EnhancedDatabaseService, settings: Settings
) -> None:
    """Keys that a process without replicas has written are loaded from the primary for a while."""
    user_id = add_user(service)
    wait_until_lsn_is_known(service, user_id)
    with open_service(settings.model_copy(update={"database_replica_urls": None})) as without_replicas:
        without_replicas.update_user_profile(user_id, name="new")
    started_at = time.monotonic()
    before = count_reads(service)
    assert service.get_user_by_id(user_id).name == "new"
    after = count_reads(service)
    assert (
        after[ON_REPLICA] == before[ON_REPLICA] or time.monotonic() - started_at > UNKNOWN_MILLISECONDS / 1000
    )
    wait_until_lsn_is_known(service, user_id)


def test_a_cancelled_lsn_query_keeps_the_write_visible(
    service: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the query for the LSN after a commit is cancelled, reads still return the new value."""
    user_id = add_user(service)
    wait_until_lsn_is_known(service, user_id)
    monkeypatch.setattr(
        "core.database.database_with_replicas.SELECT_LSN",
        "SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(20)",
    )
    with pytest.raises(DatabaseUnavailable), service.transaction():
        service.update_user_profile(user_id, name="committed")
    assert service.get_user_by_id(user_id).name == "committed"
    service.touch_last_active(user_id)
    assert service.get_user_by_id(user_id).last_active is not None


def test_without_replicas_no_lsn_is_stored(settings: Settings, valkey_server: ValkeyServer) -> None:
    """A process without replicas stores no LSNs in Redis and has no replica metrics."""
    with open_service(settings.model_copy(update={"database_replica_urls": None})) as without_replicas:
        user_id = add_user(without_replicas)
        without_replicas.update_user_profile(user_id, name="new")
        assert without_replicas.get_user_by_id(user_id).name == "new"
        assert without_replicas.replica_stats() == ()
        assert count_reads(without_replicas) == {}
    with redis.Redis(port=valkey_server.port, password=valkey_server.password) as client:
        assert client.keys("positions/*") == []


def test_calls_succeed_when_a_replica_fails(
    server_directory: Callable[[], Path], valkey_server: ValkeyServer
) -> None:
    """Calls succeed while the replica hangs, is killed or is promoted; a restarted replica is used again."""
    directory = server_directory()
    with run_postgres(server_directory(), options=OPTIONS) as primary, ExitStack() as stack:
        with run_replica(directory, primary) as replica:
            pair = ReplicaPair(primary, replica)
            settings = pair.settings(valkey_server, database_query_timeout=20_000)
            Migrator(settings).up()
            service = stack.enter_context(open_service(settings))
            wait_until_used(service)
            with hung(replica):
                started_at = time.monotonic()
                add_user(service)
                service.list_session_dates()
                assert time.monotonic() - started_at < stretch(5), "calls do not wait for the query timeout"
                wait_until(
                    lambda: service.replica_stats()[0].reason is not None, "the replica is not used", 20.0
                )
            wait_until_used(service)
            os.kill(replica.pid, signal.SIGQUIT)
            for _ in range(5):
                service.list_session_dates()
        wait_until(lambda: service.replica_stats()[0].reason is not None, "the replica is not used", 20.0)
        with run_replica(directory, primary, port=replica.port) as again:
            wait_until_used(service)
            before = count_reads_on(service, "replica")

            def is_read_on_replica() -> bool:
                service.list_session_dates()
                return count_reads_on(service, "replica") > before

            wait_until(is_read_on_replica, "the replica is used again", 20.0)
            with connected(again.url()) as run:
                run("SELECT pg_promote()")
            service.update_user_profile(add_user(service), name="after the promotion")
            before = count_reads_on(service, "replica")
            service.list_session_dates()
            assert count_reads_on(service, "replica") == before
            wait_until(
                lambda: "no replica" in (service.replica_stats()[0].reason or ""),
                "the replica is not used",
                20.0,
            )
