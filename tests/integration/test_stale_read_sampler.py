"""The stale-read sampler counts cached values that differ from the database, and no others."""

import time
from collections.abc import Iterator
from decimal import Decimal
from typing import cast

import pytest
import redis

from core import EnhancedDatabaseService, Settings, open_service
from core.cache import counters
from core.cache.kinds import USER, Cached, Read
from core.cache.shared import SharedCache
from core.records import User
from tests.conftest import Execute
from tests.fleet_reading import read_own
from tests.patience import stretch, wait_until

PATIENCE_SECONDS = 30.0


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return settings that sample every hit; hits of the near cache are compared after 50 ms."""
    defaults = {**(counters.StaleReadSampler.__init__.__kwdefaults__ or {}), "feed_bound_seconds": 0.05}
    monkeypatch.setattr(counters.StaleReadSampler.__init__, "__kwdefaults__", defaults)
    return settings.model_copy(update={"stale_read_sample": 1})


@pytest.fixture
def without_near_cache(settings: Settings) -> Iterator[EnhancedDatabaseService]:
    """Yield a service without a near cache, so that every hit comes from Redis."""
    with open_service(settings.model_copy(update={"near_cache_size": 0})) as service:
        yield service


def read_counter(service: EnhancedDatabaseService, name: str, tier: str, cache: str = "user") -> float:
    """Return a counter of the sampler."""
    labels = {"cache": cache, "tier": tier, "role": "job"}
    return read_own(service.metrics, f"echo_cache_{name}_total", **labels) or 0


def test_an_older_value_in_redis_is_counted(
    without_near_cache: EnhancedDatabaseService, alice: User, redis_client: redis.Redis
) -> None:
    """An older value that another program has stored in Redis is returned and counted as stale."""
    without_near_cache.get_user_by_id(alice.id)
    older = redis_client.get(f"user:{alice.id}")
    assert isinstance(older, bytes)
    without_near_cache.update_user_profile(alice.id, name="New")
    redis_client.set(f"user:{alice.id}", older)
    assert without_near_cache.get_user_by_id(alice.id) == alice
    wait_until(
        lambda: read_counter(without_near_cache, "stale_reads", "shared") == 1,
        "the stale read is counted",
        PATIENCE_SECONDS,
    )


def test_a_stale_hit_in_the_near_cache_is_counted(
    service: EnhancedDatabaseService, alice: User, execute: Execute
) -> None:
    """After a row is changed with SQL, a hit in the near cache is counted as stale."""

    def is_near() -> bool:
        before = service.cache_stats().caches["user"].near_hits
        service.get_user_by_id(alice.id)
        return service.cache_stats().caches["user"].near_hits > before

    wait_until(is_near, "the near cache has the value", PATIENCE_SECONDS)
    execute("UPDATE users SET name = 'changed with SQL'")
    service.get_user_by_id(alice.id)
    wait_until(
        lambda: read_counter(service, "stale_reads", "near") >= 1,
        "the stale read is counted",
        PATIENCE_SECONDS,
    )


def test_correct_hits_are_not_counted(
    service: EnhancedDatabaseService, settings: Settings, alice: User
) -> None:
    """While two services write and read the same keys, no sampled hit is stale."""
    with open_service(settings) as other:
        for number in range(50):
            (service, other)[number % 2].update_user_profile(alice.id, name=str(number))
            service.update_leaderboard_entry(alice.id, "b", Decimal(number))
            for _ in range(4):
                for each in (service, other):
                    each.get_user_by_id(alice.id)
                    each.get_leaderboard("b")
        for each in (service, other):
            wait_until(each._cache._sampler._samples.empty, "every sample is compared", PATIENCE_SECONDS)
        for cache in ("user", "leaderboard"):
            samples = sum(
                read_counter(each, "stale_read_samples", "near", cache) for each in (service, other)
            )
            assert samples > 0
            for tier in ("near", "shared"):
                assert read_counter(service, "stale_reads", tier, cache) == 0
                assert read_counter(other, "stale_reads", tier, cache) == 0


def test_a_slow_database_delays_no_hit(
    without_near_cache: EnhancedDatabaseService, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While no comparison can finish, the bounded queue drops further samples and no hit waits."""
    without_near_cache.get_user_by_id(alice.id)
    with without_near_cache._database.session("busy"):
        # the only connection is taken, so that no comparison can finish
        monkeypatch.setattr(without_near_cache._database._pool, "_limit", 1)
        started = time.perf_counter()
        samples = without_near_cache._cache._sampler._samples
        reads = 0
        # a comparison that times out takes the next sample from the queue
        while not samples.full() or reads < 3 * counters.QUEUE_SAMPLES:
            without_near_cache.get_user_by_id(alice.id)
            reads += 1
            assert time.perf_counter() - started < stretch(2)


class ConstantCache:
    """A shared cache with the value 1 under every key."""

    def peek(self, *_: object) -> int:
        """Return the value 1."""
        return 1


@pytest.mark.parametrize(("values_read", "is_stale"), [((1, 1), False), ((2, 1), False), ((2, 2), True)])
def test_a_restored_value_is_not_stale(
    service: EnhancedDatabaseService, values_read: tuple[int, ...], *, is_stale: bool
) -> None:
    """A cached 1 is stale if two reads return 2, but not if the second returns 1: the row changed back."""
    loads = iter(values_read)
    read = Read(Cached(USER, int, str), lambda keys: {keys[0]: next(loads)}, ())
    sampler = counters.StaleReadSampler(
        1, metrics=service.metrics, near=service._cache._near, shared=cast(SharedCache, ConstantCache())
    )
    assert sampler._is_stale(counters._Sample(read, "shared", "k", 1)) is is_stale


def test_sampling_is_off_by_default(service: EnhancedDatabaseService) -> None:
    """By default STALE_READ_SAMPLE is 0: no hit is sampled and no thread starts."""
    assert Settings.model_fields["stale_read_sample"].default == 0
    sampler = counters.StaleReadSampler(0, metrics=service.metrics, near=service._cache._near, shared=None)
    sampler.sample("near", lambda: pytest.fail("sampled"), {"k": 1})
    assert sampler._thread is None
