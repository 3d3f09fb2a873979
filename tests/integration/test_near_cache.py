"""The near cache on a real Valkey: coherent with other processes, and off while its feed is not connected."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.cache.capability import encode_subscription, subscribe
from core.cache.client import RedisClient
from core.cache.timeline_claim import KEY
from core.cache.topology import make_connection_factory
from core.errors import UserNotFound
from core.records import User
from core.stack.ports import find_free_port
from core.testing import PostgresServer, ValkeyServer, run_valkey
from tests.conftest import created_database
from tests.patience import stretch, wait_until


def near_hits(service: EnhancedDatabaseService, kind: str = "user") -> int:
    """Return the number of near cache hits for a kind of value."""
    return service.cache_stats().caches[kind].near_hits


@pytest.fixture
def warm(service: EnhancedDatabaseService, alice: User) -> EnhancedDatabaseService:
    """Return a service with alice's profile in its near cache."""
    make_warm(service, alice)
    return service


def make_warm(service: EnhancedDatabaseService, user: User) -> None:
    """Read a user's profile until a read is a near cache hit."""

    def is_warm() -> bool:
        before = near_hits(service)
        service.get_user_by_id(user.id)
        return near_hits(service) > before

    wait_until(is_warm, "the read is a near cache hit")


def test_a_second_read_is_a_near_cache_hit(warm: EnhancedDatabaseService, alice: User) -> None:
    """Two reads of a cached profile are near cache hits and send no request to Redis or the database."""
    before = warm.cache_stats().caches["user"]
    assert warm.get_user_by_id(alice.id) == warm.get_user_by_id(alice.id) == alice
    after = warm.cache_stats().caches["user"]
    assert (after.near_hits - before.near_hits, after.requests - before.requests) == (2, 0)


def test_a_process_reads_its_own_writes(warm: EnhancedDatabaseService, alice: User) -> None:
    """After a write returns, the next read in the same process returns the new value."""
    for n in range(100):
        warm.update_user_profile(alice.id, name=str(n))
        assert warm.get_user_by_id(alice.id).name == str(n)


def test_an_interrupted_write_is_visible_in_its_process(
    warm: EnhancedDatabaseService, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an interrupt during invalidation the process reads the committed value, even without the feed."""
    shared = warm._cache._shared
    assert shared is not None

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(warm._cache._feed, "_apply", lambda _: None)
    with monkeypatch.context() as patch:
        patch.setattr(shared._client, "run_each", interrupt)
        with pytest.raises(KeyboardInterrupt):
            warm.update_user_profile(alice.id, name="committed")
    assert warm.get_user_by_id(alice.id).name == "committed"


def test_writes_of_another_service_invalidate_the_near_cache(
    warm: EnhancedDatabaseService, settings: Settings, alice: User
) -> None:
    """After a write of one service the feed invalidates the value in another service's near cache."""
    with open_service(settings) as other:
        make_warm(other, alice)
        warm.update_user_profile(alice.id, name="One")
        wait_until(lambda: other.get_user_by_id(alice.id).name == "One", "the other sees One")
        other.update_user_profile(alice.id, name="Two")
        wait_until(lambda: warm.get_user_by_id(alice.id).name == "Two", "the first sees Two")


def test_a_delete_in_redis_invalidates_the_near_cache(
    warm: EnhancedDatabaseService, alice: User, redis_client: redis.Redis
) -> None:
    """DEL and FLUSHALL of another Redis client remove the values from the near cache."""
    for command in (("DEL", f"user:{alice.id}"), ("FLUSHALL",)):
        make_warm(warm, alice)
        misses = warm.cache_stats().caches["user"].misses
        redis_client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no annotations there

        def is_loaded_again(known: int = misses) -> bool:
            warm.get_user_by_id(alice.id)
            return warm.cache_stats().caches["user"].misses > known

        wait_until(is_loaded_again, "the profile is loaded again")


def test_a_rename_invalidates_leaderboards_in_near_caches(
    service: EnhancedDatabaseService, settings: Settings, alice: User
) -> None:
    """After a player is renamed, another service's near cache shows the new name for every limit."""
    service.update_leaderboard_entry(alice.id, "b", Decimal(1))
    with open_service(settings) as other:
        for limit in (1, 10, 50):
            wait_until(
                lambda limit=limit: (  # type: ignore[misc]  # bound at once
                    other.get_leaderboard("b", None, limit) is other.get_leaderboard("b", None, limit)
                ),
                "the leaderboard is in the near cache",
            )
        service.update_user_profile(alice.id, username="renamed")
        for limit in (1, 10, 50):
            wait_until(
                lambda limit=limit: other.get_leaderboard("b", None, limit)[0].username == "renamed",  # type: ignore[misc]  # as above
                "the new name",
            )


@pytest.fixture
def own_valkey(server_directory: Callable[[], Path]) -> Iterator[ValkeyServer]:
    """Yield a Valkey server that a test may stop."""
    with run_valkey(server_directory()) as server:
        yield server


@pytest.fixture
def settings_of_own_valkey(settings: Settings, own_valkey: ValkeyServer) -> Settings:
    """Return settings that use `own_valkey`."""
    return settings.model_copy(
        update={"redis_url": SecretStr(own_valkey.url), "redis_password": SecretStr(own_valkey.password)}
    )


def test_a_hanging_redis_turns_the_near_cache_off(
    settings_of_own_valkey: Settings, own_valkey: ValkeyServer, alice: User
) -> None:
    """The near cache turns off within 2.5 s after SIGSTOP of Valkey, and on again after SIGCONT."""
    with open_service(settings_of_own_valkey) as service:
        make_warm(service, alice)
        os.kill(own_valkey.pid, signal.SIGSTOP)
        try:
            stopped = time.monotonic()
            wait_until(lambda: not service._cache._near.is_live, "the near cache is off")
            assert time.monotonic() - stopped < stretch(2.5)
            service.update_user_profile(alice.id, name="Meanwhile")
            assert service.get_user_by_id(alice.id).name == "Meanwhile"
        finally:
            os.kill(own_valkey.pid, signal.SIGCONT)
        make_warm(service, alice)
        assert service.get_user_by_id(alice.id).name == "Meanwhile"


def test_a_killed_feed_connection_is_replaced(
    settings_of_own_valkey: Settings, own_valkey: ValkeyServer, settings: Settings, alice: User
) -> None:
    """After the feed's connection is killed, no write of another service is missed."""
    client = redis.Redis.from_url(own_valkey.url, password=own_valkey.password)
    with open_service(settings_of_own_valkey) as service, open_service(settings_of_own_valkey) as other:
        make_warm(service, alice)
        for each in client.client_list():
            if "t" in each["flags"]:
                client.client_kill_filter(_id=each["id"])
        other.update_user_profile(alice.id, name="Changed")
        wait_until(lambda: service.get_user_by_id(alice.id).name == "Changed", "the change is seen")
        make_warm(service, alice)


def test_near_cache_size_0_turns_the_near_cache_off(settings: Settings, alice: User) -> None:
    """With NEAR_CACHE_SIZE=0 a second read is a hit of the shared cache and not of the near cache."""
    with open_service(settings.model_copy(update={"near_cache_size": 0})) as service:
        service.get_user_by_id(alice.id)
        service.get_user_by_id(alice.id)
        assert near_hits(service) == 0
        assert service.cache_stats().caches["user"].hits == 1


def test_failed_connections_exhaust_no_resource(settings: Settings) -> None:
    """After 150 refused connections of the feed the error is still "refused", not an exhausted limit."""
    nowhere = settings.model_copy(update={"redis_url": SecretStr(f"redis://127.0.0.1:{find_free_port()}/0")})
    connect = make_connection_factory(nowhere, "test")
    client = RedisClient(connect)
    for _ in range(150):
        with pytest.raises(redis.ConnectionError, match="refused"):
            subscribe(connect(), encode_subscription(""))
    with pytest.raises(redis.ConnectionError, match="refused"):
        client.execute("PING")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_its_own_feed(
    warm: EnhancedDatabaseService, settings: Settings, alice: User
) -> None:
    """A forked child gets near cache hits and invalidations from a feed of its own."""
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            make_warm(warm, alice)
            os.write(to_parent, b"warm")
            os.read(from_parent, 10)
            wait_until(lambda: warm.get_user_by_id(alice.id).name == "Two", "the child sees Two")
            os.write(to_parent, b"fine")
        finally:
            os._exit(0)
    assert os.read(from_child, 10) == b"warm"
    with open_service(settings) as other:
        other.update_user_profile(alice.id, name="Two")
        written = time.monotonic()
        os.write(to_child, b"go")
        assert os.read(from_child, 10) == b"fine"
        assert time.monotonic() - written < settings.near_cache_ttl / 1000 / 2, (
            "invalidated by the feed, not expired"
        )
    os.waitpid(child, 0)
    for end in (from_child, to_parent, from_parent, to_child):
        os.close(end)


@pytest.mark.parametrize("near_cache_size", [0, 1_000])
def test_services_of_two_databases_share_no_cache(
    settings: Settings,
    postgres_server: PostgresServer,
    template_database: str,
    redis_client: redis.Redis,
    near_cache_size: int,
) -> None:
    """A service whose key prefix is in use for another database reports this and works without Redis."""
    ours = settings.model_copy(update={"near_cache_size": near_cache_size})
    with (
        created_database(postgres_server, template=template_database) as url,
        open_service(ours) as first,
        open_service(ours.model_copy(update={"database_url": SecretStr(url)})) as second,
    ):
        user_id = first.create_user(username="alice", name="Alice").id
        first.get_user_by_id(user_id)
        for _ in range(3):
            with pytest.raises(UserNotFound):
                second.get_user_by_id(user_id)
            assert first.get_user_by_id(user_id).name == "Alice"
        assert first.cache_stats().state == "enabled"
        stats = second.cache_stats()
        assert stats.state == "down"
        assert "another database uses the keys under REDIS_KEY_PREFIX" in (stats.reason or "")
        first.close()
        # delete the claim of the first database instead of waiting until it expires
        redis_client.delete(f"{settings.redis_key_prefix}{KEY}")
        wait_until(lambda: second.cache_stats().state == "enabled", "the second one uses the cache")
        with pytest.raises(UserNotFound):
            second.get_user_by_id(user_id)
