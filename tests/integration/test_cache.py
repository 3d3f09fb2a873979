"""Tests of the shared cache on a real Valkey: fills, invalidations, faults and counters."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.cache import outbox
from core.cache.guard import RedisGuard
from core.errors import DatabaseUnavailable, UserNotFound
from core.migration import Migrator
from core.queries import leaderboards
from core.queries import users as user_queries
from core.records import LeaderboardUpdate, Tick, User
from core.stack.ports import find_free_port
from core.testing import ValkeyServer, run_postgres, run_valkey
from tests.conftest import FAST
from tests.fleet_reading import read_own

DAY = date(2026, 3, 2)


@pytest.fixture
def own_valkey(server_directory: Callable[[], Path]) -> Iterator[ValkeyServer]:
    """Yield a Valkey server that only this test uses, so it may pause or stop it."""
    with run_valkey(server_directory()) as server:
        yield server


@pytest.fixture
def own_valkey_service(settings: Settings, own_valkey: ValkeyServer) -> Iterator[EnhancedDatabaseService]:
    """Yield a service that uses `own_valkey`."""
    changed = settings.model_copy(
        update={
            "redis_url": SecretStr(own_valkey.url),
            "redis_password": SecretStr(own_valkey.password),
        }
    )
    with open_service(changed) as service:
        yield service


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Return settings without a near cache, so that every read reaches Redis."""
    return settings.model_copy(update={"near_cache_size": 0})


def assert_counts_add_up(service: EnhancedDatabaseService) -> None:
    """Assert that requests = hits + misses + bypasses for each cache, and that the metrics are equal."""
    service.metrics.publish()
    for name, counts in service.cache_stats().caches.items():
        assert counts.requests == counts.hits + counts.misses + counts.bypasses
        labels = {"cache": name, "tier": "shared", "role": "job"}
        for sample, count in (("requests", counts.requests), ("hits", counts.hits)):
            assert (read_own(service.metrics, f"echo_cache_{sample}_total", **labels) or 0) == count


def test_a_late_fill_is_refused(
    service: EnhancedDatabaseService, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a row changes while a reader loads it, the reader's fill with the old row is refused."""
    loaded, may_fill = threading.Event(), threading.Event()
    find_user = user_queries.find_user

    def find_slowly(*args: object) -> object:
        user = find_user(*args)  # type: ignore[arg-type]  # passed through
        loaded.set()
        assert may_fill.wait(10)
        return user

    monkeypatch.setattr(user_queries, "find_user", find_slowly)
    reader = threading.Thread(target=lambda: service.get_user_by_id(alice.id))
    reader.start()
    assert loaded.wait(10)
    service.update_user_profile(alice.id, name="New")
    may_fill.set()
    reader.join(10)
    monkeypatch.undo()
    assert service.get_user_by_id(alice.id).name == "New"
    assert service.cache_stats().caches["user"].stale_fills_refused == 1


def test_a_late_leaderboard_is_refused(
    service: EnhancedDatabaseService, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an entry changes while a reader loads the leaderboard, the fill with the old page is refused."""
    service.update_leaderboard_entry(alice.id, "b", Decimal(1), DAY)
    loaded, may_fill = threading.Event(), threading.Event()
    list_page = leaderboards.list_page

    def load_slowly(*args: object) -> object:
        page = list_page(*args)  # type: ignore[arg-type]  # passed through
        loaded.set()
        assert may_fill.wait(10)
        return page

    monkeypatch.setattr(leaderboards, "list_page", load_slowly)
    reader = threading.Thread(target=lambda: service.get_leaderboard("b", DAY))
    reader.start()
    assert loaded.wait(10)
    service.batch_update_leaderboard("b", [LeaderboardUpdate(alice.id, Decimal(2))], DAY)
    may_fill.set()
    reader.join(10)
    monkeypatch.undo()
    assert service.get_leaderboard("b", DAY)[0].score == 2
    assert service.cache_stats().caches["leaderboard"].stale_fills_refused == 1


def test_a_failed_write_keeps_the_cached_value(
    service: EnhancedDatabaseService, alice: User, bob: User, redis_client: redis.Redis
) -> None:
    """A rename that fails because the username is taken does not invalidate the cached profile."""
    service.get_user_by_id(alice.id)
    before = redis_client.get(f"user:{alice.id}")
    with pytest.raises(ValueError, match="is taken"):
        service.update_user_profile(alice.id, username=bob.username)
    assert redis_client.get(f"user:{alice.id}") == before


def test_a_key_deleted_by_another_program_is_loaded_again(
    service: EnhancedDatabaseService, alice: User, redis_client: redis.Redis
) -> None:
    """Reads are right after another program has deleted any cache key or version key."""
    service.update_leaderboard_entry(alice.id, "b", Decimal(1), DAY)
    service.get_leaderboard("b", DAY)
    for key in list(redis_client.scan_iter()):
        redis_client.delete(key)
        assert service.get_leaderboard("b", DAY)[0].user_id == alice.id


@pytest.mark.parametrize("value", [b"", b"V", b"Vgarbage", b"\x80\x04pickle", b"{}", b"L"])
def test_a_foreign_value_is_replaced(
    service: EnhancedDatabaseService, alice: User, redis_client: redis.Redis, value: bytes
) -> None:
    """A value that another program wrote under a cache key is a miss and causes no error."""
    redis_client.set(f"user:{alice.id}", value, px=50 if value == b"L" else None)
    assert service.get_user_by_id(alice.id) == alice


def test_a_read_with_an_early_lease_replaces_a_foreign_value(
    settings: Settings, alice: User, redis_client: redis.Redis
) -> None:
    """After misses, a read asks for a lease in the same round trip as its GET.

    Such a read replaces a foreign value too, and leaves no lease.
    """
    with open_service(settings.model_copy(update={"near_cache_size": 0})) as service:
        bob = service.create_user(username="bob")
        for _ in range(2):
            service.get_user_by_id(alice.id)
            redis_client.delete(f"user:{alice.id}")
        redis_client.set(f"user:{bob.id}", "foreign")
        assert service.get_user_by_id(bob.id) == bob
        assert service.get_user_by_id(bob.id) == bob
        counts = service.cache_stats().caches["user"]
        assert (counts.hits, counts.misses) == (1, 3)
        # neither the hit nor the misses leave a lease under the keys
        assert redis_client.getrange(f"user:{bob.id}", 0, 0) == b"V"
        assert redis_client.get(f"user:{alice.id}") is None


def test_a_key_of_another_type_is_replaced(
    service: EnhancedDatabaseService, alice: User, redis_client: redis.Redis
) -> None:
    """A Redis list under the key of a profile is replaced with the profile."""
    redis_client.rpush(f"user:{alice.id}", "x")
    redis_client.rpush("version:usernames", "x")
    assert service.get_user_by_id(alice.id) == alice
    assert redis_client.type(f"user:{alice.id}") == b"string"
    assert service.get_leaderboard("b", DAY) == ()


def test_two_processes_share_the_cache(
    service: EnhancedDatabaseService, settings: Settings, alice: User
) -> None:
    """A service reads values that another service filled, and sees changes made by that service."""
    with open_service(settings) as other:
        service.get_user_by_id(alice.id)
        other.get_user_by_id(alice.id)
        assert other.cache_stats().caches["user"].hits == 1
        other.update_user_profile(alice.id, name="Other")
        assert service.get_user_by_id(alice.id).name == "Other"


def test_a_prefix_keeps_stacks_apart(settings: Settings, alice: User, redis_client: redis.Redis) -> None:
    """With REDIS_KEY_PREFIX every key in Redis begins with the prefix."""
    redis_client.flushall()
    with open_service(settings.model_copy(update={"redis_key_prefix": "blue:"})) as service:
        service.get_user_by_id(alice.id)
        service.get_leaderboard("b", DAY)
        assert all(key.startswith(b"blue:") for key in redis_client.scan_iter())
        service.update_user_profile(alice.id, name="Blue")
        assert service.get_user_by_id(alice.id).name == "Blue"


def test_disabled_redis_is_bypassed(settings: Settings, alice: User) -> None:
    """With ENABLE_REDIS_CACHE=false every read is a bypass, and the service is healthy without Redis."""
    changed = settings.model_copy(
        update={"enable_redis_cache": False, "redis_url": SecretStr("redis://127.0.0.1:1/0")}
    )
    with open_service(changed) as service:
        assert service.get_user_by_id(alice.id) == alice
        service.update_user_profile(alice.id, name="Direct")
        assert service.get_user_by_id(alice.id).name == "Direct"
        stats = service.cache_stats()
        assert stats.state == "disabled"
        assert stats.caches["user"].bypasses == 2
        assert service.health().redis == "disabled"
        assert service.health().status == "healthy"
        assert_counts_add_up(service)


def test_missing_redis_is_bypassed(settings: Settings, alice: User) -> None:
    """Without a Redis server, calls read and write the database, and the health is degraded."""
    changed = settings.model_copy(update={"redis_url": SecretStr(f"redis://127.0.0.1:{find_free_port()}/0")})
    with open_service(changed) as service:
        service.update_user_profile(alice.id, name="Alone")
        assert service.get_user_by_id(alice.id).name == "Alone"
        assert service.cache_stats().state == "down"
        assert service.health().status == "degraded"
        assert_counts_add_up(service)


def test_a_wrong_password_is_a_bypass(settings: Settings, alice: User) -> None:
    """A Redis that refuses the password is bypassed, and no caller gets an error."""
    with open_service(settings.model_copy(update={"redis_password": SecretStr("wrong")})) as service:
        assert service.get_user_by_id(alice.id) == alice
        assert service.cache_stats().caches["user"].bypasses == 1
        assert_counts_add_up(service)


def test_a_hung_redis_costs_one_timeout(
    own_valkey_service: EnhancedDatabaseService, own_valkey: ValkeyServer, alice: User, settings: Settings
) -> None:
    """When Redis hangs, the first call waits for REDIS_TIMEOUT, and later calls bypass Redis at once.

    When Redis continues, reads return the value that was written while it hung.
    """
    own_valkey_service.get_user_by_id(alice.id)
    os.kill(own_valkey.pid, signal.SIGSTOP)
    try:
        started = time.perf_counter()
        assert own_valkey_service.get_user_by_id(alice.id) == alice
        first = time.perf_counter() - started
        started = time.perf_counter()
        for _ in range(20):
            assert own_valkey_service.get_user_by_id(alice.id) == alice
        rest = time.perf_counter() - started
        own_valkey_service.update_user_profile(alice.id, name="While it hung")
        assert own_valkey_service.get_user_by_id(alice.id).name == "While it hung"
    finally:
        os.kill(own_valkey.pid, signal.SIGCONT)
    timeout = settings.redis_timeout / 1000
    assert timeout * 0.9 < first < timeout * 10
    assert rest < first * 3, "twenty calls past a hung server wait for at most one more probe"
    wait_until_enabled(own_valkey_service, alice)
    assert own_valkey_service.get_user_by_id(alice.id).name == "While it hung"
    assert_counts_add_up(own_valkey_service)


def test_an_invalidation_waits_until_redis_is_back(
    settings: Settings,
    alice: User,
    server_directory: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The invalidation of a write during an outage is sent before this process reads from Redis again."""
    # let the background thread send the invalidation only after the test has restored the old value
    is_back = threading.Event()
    attempt = RedisGuard._attempt_recovery
    monkeypatch.setattr(RedisGuard, "_attempt_recovery", lambda guard: is_back.is_set() and attempt(guard))
    port = find_free_port()
    directory = server_directory()
    with run_valkey(directory, port=port) as server:
        changed = settings.model_copy(
            update={
                "redis_url": SecretStr(server.url),
                "redis_password": SecretStr(server.password),
            }
        )
        service = open_service(changed)
        service.get_user_by_id(alice.id)
        stored = redis.Redis(port=port, password=server.password).get(f"user:{alice.id}")
    assert service.get_user_by_id(alice.id) == alice
    service.update_user_profile(alice.id, name="Meanwhile")
    with run_valkey(directory, port=port) as server, service:
        # put the old value back, as if the server had persistence
        redis.Redis(port=port, password=server.password).set(f"user:{alice.id}", stored or b"")
        is_back.set()
        wait_until_enabled(service, alice)
        assert service.get_user_by_id(alice.id).name == "Meanwhile"
        assert_counts_add_up(service)


def test_a_full_redis_accepts_invalidations(
    own_valkey_service: EnhancedDatabaseService, own_valkey: ValkeyServer, alice: User
) -> None:
    """A Redis at `maxmemory` with `noeviction` refuses fills but accepts invalidations."""
    client = redis.Redis.from_url(own_valkey.url, password=own_valkey.password)
    own_valkey_service.get_user_by_id(alice.id)
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1")
    own_valkey_service.update_user_profile(alice.id, name="Full")
    assert own_valkey_service.get_user_by_id(alice.id).name == "Full"
    assert own_valkey_service.get_leaderboard("b", DAY) == ()
    client.config_set("maxmemory", "0")
    own_valkey_service.get_user_by_id(alice.id)
    hits = own_valkey_service.cache_stats().caches["user"].hits
    own_valkey_service.get_user_by_id(alice.id)
    assert own_valkey_service.cache_stats().caches["user"].hits == hits + 1
    assert_counts_add_up(own_valkey_service)


def test_an_outbox_over_its_limit_drops_all_keys(
    own_valkey_service: EnhancedDatabaseService,
    own_valkey: ValkeyServer,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the outbox exceeds its limit during an outage, all keys of the stack are dropped afterwards."""
    monkeypatch.setattr(outbox, "OUTBOX_LIMIT", 3)
    own_valkey_service.get_user_by_id(alice.id)
    os.kill(own_valkey.pid, signal.SIGSTOP)
    try:
        own_valkey_service.update_user_profile(alice.id, name="Early")
        own_valkey_service.insert_market_ticks(
            [Tick(f"S{n}", alice.created_at, Decimal(1)) for n in range(9)]
        )
    finally:
        os.kill(own_valkey.pid, signal.SIGCONT)
    wait_until_enabled(own_valkey_service, alice)
    assert own_valkey_service.get_user_by_id(alice.id).name == "Early"


def test_missing_rows_are_cached(service: EnhancedDatabaseService, redis_client: redis.Redis) -> None:
    """A second read of a missing row runs no statement, until the row is created."""
    statements: list[str] = []
    service._database.query_hooks.append(lambda event: statements.append(event.sql))
    unknown = "018f0000-0000-7000-8000-000000000001"
    counts = []
    for _ in range(3):
        with pytest.raises(UserNotFound):
            service.get_user_by_id(unknown)
        assert service.get_latest_market_data(["NONE", "ZERO"]) == ()
        counts.append(len(statements))
    assert counts[0] > 0
    assert counts == [counts[0]] * 3
    assert 0 < redis_client.pttl(f"user:{unknown}") <= 5_000
    service.insert_market_tick("NONE", Decimal(1))
    assert [tick.symbol for tick in service.get_latest_market_data(["NONE", "ZERO"])] == ["NONE"]


def test_a_failed_load_releases_its_lease(
    service: EnhancedDatabaseService, alice: User, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a load fails, its lease is deleted, so the next reader fills without waiting for its expiry."""

    def fail(*_: object) -> None:
        raise DatabaseUnavailable("gone")

    monkeypatch.setattr(user_queries, "find_user", fail)
    with pytest.raises(DatabaseUnavailable):
        service.get_user_by_id(alice.id)
    assert redis_client.get(f"user:{alice.id}") is None
    monkeypatch.undo()
    service.get_user_by_id(alice.id)
    assert redis_client.strlen(f"user:{alice.id}") > 20, "a value, no lease"


def test_expiry_times_are_jittered(service: EnhancedDatabaseService, redis_client: redis.Redis) -> None:
    """Keys filled by one call expire at different times: up to a tenth of the TTL earlier, never later."""
    service._warm_users("warm_cache", [service.create_user(username=f"player{n}").id for n in range(40)])
    left = [redis_client.pttl(key) for key in redis_client.scan_iter("user:*", count=1_000)]
    assert len(left) == 40
    assert max(left) - min(left) > 3_000
    assert max(left) <= 300_000


def test_reads_after_warm_cache_are_hits(
    service: EnhancedDatabaseService, alice: User, redis_client: redis.Redis
) -> None:
    """`warm_cache` fills leaderboards, prices, and profiles and quests of active players.

    It reports its progress, and reads of these values afterwards are hits.
    """
    service.touch_last_active(alice.id)
    service.update_leaderboard_entry(alice.id, "daily_returns", Decimal(1))
    service.insert_market_tick("AAPL", Decimal(1))
    steps: list[tuple[int, int]] = []
    statements: list[str] = []
    service._database.query_hooks.append(lambda event: statements.append(event.sql))
    total = service.warm_cache(players=5, on_progress=lambda n, of: steps.append((n, of)))
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    assert steps[-1] == (total, total)
    assert total == 1 + 3 + 1 + 2, (
        "all prices, three limits of a leaderboard, a symbol, a profile, its quests"
    )
    assert len(statements) == 1 + 2 + 1 + 1 + 2, (
        "one per kind and leaderboard, however many players and limits"
    )
    hits = {name: counts.hits for name, counts in service.cache_stats().caches.items()}
    service.get_leaderboard("daily_returns", None, 50)
    service.get_user_by_id(alice.id)
    service.get_latest_market_data(["AAPL"])
    service.get_user_active_quests(alice.id)
    for name in ("leaderboard", "user", "market", "quests"):
        assert service.cache_stats().caches[name].hits == hits[name] + 1


def test_a_warmed_leaderboard_serves_each_limit(
    service: EnhancedDatabaseService, alice: User, bob: User
) -> None:
    """`warm_cache` fills each limit from the largest page. An update invalidates the warmed pages."""
    for score, user in enumerate((alice, bob)):
        service.update_leaderboard_entry(user.id, "b", Decimal(score))
    service.warm_cache(limits=(2, 1, 2), players=1)
    hits = service.cache_stats().caches["leaderboard"].hits
    assert [entry.username for entry in service.get_leaderboard("b", limit=1)] == ["bob"]
    assert [entry.username for entry in service.get_leaderboard("b", limit=2)] == ["bob", "alice"]
    assert service.cache_stats().caches["leaderboard"].hits == hits + 2
    service.update_leaderboard_entry(alice.id, "b", Decimal(9))
    assert [entry.username for entry in service.get_leaderboard("b", limit=1)] == ["alice"]
    service.warm_cache(limits=(), players=1)


def test_counts_add_up(service: EnhancedDatabaseService, alice: User) -> None:
    """Requests = hits + misses + bypasses, in `cache_stats` and in the metrics."""
    for _ in range(3):
        service.get_user_by_id(alice.id)
        service.get_latest_market_data(["AAPL", "MSFT"])
    stats = service.cache_stats().caches
    assert (stats["user"].requests, stats["user"].hits) == (3, 2)
    assert (stats["market"].requests, stats["market"].misses) == (6, 2), "a missing symbol is cached too"
    assert_counts_add_up(service)


def wait_until_enabled(service: EnhancedDatabaseService, user: User) -> None:
    """Read a user until Redis is in use again; fail after 5 s."""
    deadline = time.monotonic() + 5
    while service.cache_stats().state != "enabled":
        assert time.monotonic() < deadline, "redis is still bypassed after 5 s"
        service.get_user_by_id(user.id)
        time.sleep(0.05)


@pytest.fixture
def stoppable_postgres(
    settings: Settings, server_directory: Callable[[], Path]
) -> Iterator[tuple[EnhancedDatabaseService, Callable[[], None]]]:
    """Yield a service and a function that stops its PostgreSQL server."""
    with run_postgres(server_directory(), options=FAST) as server:
        own = settings.model_copy(update={"database_url": SecretStr(server.url()), "near_cache_size": 100})
        Migrator(own).up()
        with open_service(own) as service:

            def stop() -> None:
                os.kill(server.pid, signal.SIGINT)
                while is_running(server.pid):
                    time.sleep(0.01)

            yield service, stop


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_fail_safe_values_are_served_during_an_outage(
    stoppable_postgres: tuple[EnhancedDatabaseService, Callable[[], None]], redis_client: redis.Redis
) -> None:
    """Without PostgreSQL, values that were read before are served, and `stale_seconds` has their age.

    A value that this process changed after the read is not served.
    """
    service, stop = stoppable_postgres
    alice, bob = service.create_user(username="alice"), service.create_user(username="bob")
    for user in (alice, bob):
        assert service.get_user_by_id(user.id) == user
        assert service.stale_seconds() is None
    service.update_user_profile(bob.id, name="Changed")
    stop()
    redis_client.flushall()
    deadline = time.monotonic() + 5
    while service.get_user_by_id(alice.id) != alice or service.stale_seconds() is None:
        assert time.monotonic() < deadline, "the flushed value is still served as fresh"
    assert 0 < (service.stale_seconds() or 0) < 60
    with pytest.raises(DatabaseUnavailable):
        service.get_user_by_id(bob.id)
    with pytest.raises(DatabaseUnavailable):
        service.update_user_profile(alice.id, name="Lost")
    service.metrics.publish()
    assert (read_own(service.metrics, "echo_cache_stale_served_total", role="job") or 0) > 0


def test_a_stampede_runs_one_statement(settings: Settings, alice: User) -> None:
    """64 threads of two services read one cold key at once, and only one statement loads it."""
    with open_service(settings) as one, open_service(settings) as two:
        statements: list[str] = []
        barrier = threading.Barrier(64)
        for service in (one, two):
            service.get_recent_market_events()
            service._database.query_hooks.append(lambda event: statements.append(event.sql))

        def read_alice(service: EnhancedDatabaseService) -> None:
            barrier.wait(10)
            assert service.get_user_by_id(alice.id) == alice

        threads = [threading.Thread(target=read_alice, args=(service,)) for service in (one, two) * 32]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(statements) == 1
