"""The near cache on a real Valkey: coherent with every process, shut while it cannot hear."""

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
    """Return how many reads the near cache has answered."""
    return service.cache_stats().caches[kind].near_hits


@pytest.fixture
def warm(service: EnhancedDatabaseService, alice: User) -> EnhancedDatabaseService:
    """A service that has Alice's profile in its near cache."""
    make_warm(service, alice)
    return service


def make_warm(service: EnhancedDatabaseService, user: User) -> None:
    """Read a profile until the near cache answers."""

    def is_warm() -> bool:
        before = near_hits(service)
        service.get_user_by_id(user.id)
        return near_hits(service) > before

    wait_until(is_warm, "the near cache answers")


def test_a_second_read_asks_nobody(warm: EnhancedDatabaseService, alice: User) -> None:
    """Neither Redis nor the database is asked; a user is built each time, so no address is cached."""
    before = warm.cache_stats().caches["user"]
    assert warm.get_user_by_id(alice.id) == warm.get_user_by_id(alice.id) == alice
    after = warm.cache_stats().caches["user"]
    assert (after.near_hits - before.near_hits, after.requests - before.requests) == (2, 0)


def test_the_own_write_is_seen_at_once(warm: EnhancedDatabaseService, alice: User) -> None:
    """Within one process a write is visible when it returns."""
    for n in range(100):
        warm.update_user_profile(alice.id, name=str(n))
        assert warm.get_user_by_id(alice.id).name == str(n)


def test_an_interrupted_write_leaves_nothing_in_its_own_process(
    warm: EnhancedDatabaseService, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller interrupts an invalidation, and then reads the committed value even if the feed is late."""
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


def test_another_process_is_heard(warm: EnhancedDatabaseService, settings: Settings, alice: User) -> None:
    """The feed reports the change of another service, and the value is dropped."""
    with open_service(settings) as other:
        make_warm(other, alice)
        warm.update_user_profile(alice.id, name="One")
        wait_until(lambda: other.get_user_by_id(alice.id).name == "One", "the other sees One")
        other.update_user_profile(alice.id, name="Two")
        wait_until(lambda: warm.get_user_by_id(alice.id).name == "Two", "the first sees Two")


def test_a_third_partys_delete_is_heard(
    warm: EnhancedDatabaseService, alice: User, redis_client: redis.Redis
) -> None:
    """The near cache drops the values after DEL and FLUSHALL of redis-cli."""
    for command in (("DEL", f"user:{alice.id}"), ("FLUSHALL",)):
        make_warm(warm, alice)
        misses = warm.cache_stats().caches["user"].misses
        redis_client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no annotations there

        def is_loaded_again(known: int = misses) -> bool:
            warm.get_user_by_id(alice.id)
            return warm.cache_stats().caches["user"].misses > known

        wait_until(is_loaded_again, "the profile is loaded again")


def test_a_renamed_player_shows_on_every_near_leaderboard(
    service: EnhancedDatabaseService, settings: Settings, alice: User
) -> None:
    """Leaderboards of another process depend on the usernames, for every limit."""
    service.update_leaderboard_entry(alice.id, "b", Decimal(1))
    with open_service(settings) as other:
        for limit in (1, 10, 50):
            wait_until(
                lambda limit=limit: (  # type: ignore[misc]  # bound at once
                    other.get_leaderboard("b", None, limit) is other.get_leaderboard("b", None, limit)
                ),
                "the board is near",
            )
        service.update_user_profile(alice.id, username="renamed")
        for limit in (1, 10, 50):
            wait_until(
                lambda limit=limit: other.get_leaderboard("b", None, limit)[0].username == "renamed",  # type: ignore[misc]  # as above
                "the new name",
            )


@pytest.fixture
def own_valkey(server_directory: Callable[[], Path]) -> Iterator[ValkeyServer]:
    """A Valkey that a test may stop."""
    with run_valkey(server_directory()) as server:
        yield server


@pytest.fixture
def on_own_valkey(settings: Settings, own_valkey: ValkeyServer) -> Settings:
    """Settings with that Valkey."""
    return settings.model_copy(
        update={"redis_url": SecretStr(own_valkey.url), "redis_password": SecretStr(own_valkey.password)}
    )


def test_a_dead_feed_is_noticed_within_two_seconds(
    on_own_valkey: Settings, own_valkey: ValkeyServer, alice: User
) -> None:
    """After SIGSTOP nothing is served from the near cache; it works again by itself."""
    with open_service(on_own_valkey) as service:
        make_warm(service, alice)
        os.kill(own_valkey.pid, signal.SIGSTOP)
        try:
            stopped = time.monotonic()
            wait_until(lambda: not service._cache._near.is_live, "the near cache is shut")
            assert time.monotonic() - stopped < stretch(2.5)
            service.update_user_profile(alice.id, name="Meanwhile")
            assert service.get_user_by_id(alice.id).name == "Meanwhile"
        finally:
            os.kill(own_valkey.pid, signal.SIGCONT)
        make_warm(service, alice)
        assert service.get_user_by_id(alice.id).name == "Meanwhile"


def test_a_cut_feed_heals(
    on_own_valkey: Settings, own_valkey: ValkeyServer, settings: Settings, alice: User
) -> None:
    """Only the feed's connection is killed; no change during the gap is missed."""
    client = redis.Redis.from_url(own_valkey.url, password=own_valkey.password)
    with open_service(on_own_valkey) as service, open_service(on_own_valkey) as other:
        make_warm(service, alice)
        for each in client.client_list():
            if "t" in each["flags"]:
                client.client_kill_filter(_id=each["id"])
        other.update_user_profile(alice.id, name="Unheard")
        wait_until(lambda: service.get_user_by_id(alice.id).name == "Unheard", "the change is seen")
        make_warm(service, alice)


def test_no_near_cache_no_thread(settings: Settings, alice: User) -> None:
    """NEAR_CACHE_SIZE=0 opens no connection for a feed."""
    with open_service(settings.model_copy(update={"near_cache_size": 0})) as service:
        service.get_user_by_id(alice.id)
        service.get_user_by_id(alice.id)
        assert near_hits(service) == 0
        assert service.cache_stats().caches["user"].hits == 1


def test_a_long_outage_uses_up_nothing(settings: Settings) -> None:
    """After many failed attempts the feed and other clients can still connect."""
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
def test_a_forked_child_hears_for_itself(
    warm: EnhancedDatabaseService, settings: Settings, alice: User
) -> None:
    """The child starts its own feed before it serves from the near cache."""
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
        assert time.monotonic() - written < settings.near_cache_ttl / 1000 / 2, "heard, not expired"
    os.waitpid(child, 0)
    for end in (from_child, to_parent, from_parent, to_child):
        os.close(end)


@pytest.mark.parametrize("near_cache_size", [0, 1_000])
def test_two_databases_do_not_share_a_cache(
    settings: Settings,
    postgres_server: PostgresServer,
    template_database: str,
    redis_client: redis.Redis,
    near_cache_size: int,
) -> None:
    """They share the server, the prefix and an id; the second one reports it and works without Redis."""
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
        # as its claim ends when nobody renews it
        redis_client.delete(f"{settings.redis_key_prefix}{KEY}")
        wait_until(lambda: second.cache_stats().state == "enabled", "the second one uses the cache")
        with pytest.raises(UserNotFound):
            second.get_user_by_id(user_id)
