"""The online stale-read meter: real disagreement is counted, and nothing else."""

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
    """Settings that compare every hit, and near ones without the wait for a dead feed."""
    defaults = {**(counters.StaleReadSampler.__init__.__kwdefaults__ or {}), "feed_bound_seconds": 0.05}
    monkeypatch.setattr(counters.StaleReadSampler.__init__, "__kwdefaults__", defaults)
    return settings.model_copy(update={"stale_read_sample": 1})


@pytest.fixture
def past_near(settings: Settings) -> Iterator[EnhancedDatabaseService]:
    """A service without a near cache: every hit is one of Redis."""
    with open_service(settings.model_copy(update={"near_cache_size": 0})) as service:
        yield service


def count(service: EnhancedDatabaseService, name: str, tier: str, cache: str = "user") -> float:
    """Return a counter of the meter."""
    labels = {"cache": cache, "tier": tier, "role": "job"}
    return read_own(service.metrics, f"echo_cache_{name}_total", **labels) or 0


def test_a_forged_value_is_counted(
    past_near: EnhancedDatabaseService, alice: User, redis_client: redis.Redis
) -> None:
    """An older profile that another program stored in Redis is served, and counted as stale."""
    past_near.get_user_by_id(alice.id)
    older = redis_client.get(f"user:{alice.id}")
    assert isinstance(older, bytes)
    past_near.update_user_profile(alice.id, name="New")
    redis_client.set(f"user:{alice.id}", older)
    assert past_near.get_user_by_id(alice.id) == alice
    wait_until(
        lambda: count(past_near, "stale_reads", "shared") == 1, "the stale read is counted", PATIENCE_SECONDS
    )


def test_a_write_past_the_service_is_counted_near_too(
    service: EnhancedDatabaseService, alice: User, execute: Execute
) -> None:
    """A row that was changed without the service makes the near cache stale."""

    def is_near() -> bool:
        before = service.cache_stats().caches["user"].near_hits
        service.get_user_by_id(alice.id)
        return service.cache_stats().caches["user"].near_hits > before

    wait_until(is_near, "the near cache answers", PATIENCE_SECONDS)
    execute("UPDATE users SET name = 'behind its back'")
    service.get_user_by_id(alice.id)
    wait_until(
        lambda: count(service, "stale_reads", "near") >= 1, "the stale read is counted", PATIENCE_SECONDS
    )


def test_a_healthy_run_counts_none(service: EnhancedDatabaseService, settings: Settings, alice: User) -> None:
    """Two services write and read the same keys; sampled hits agree with the database."""
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
            samples = sum(count(each, "stale_read_samples", "near", cache) for each in (service, other))
            assert samples > 0
            for tier in ("near", "shared"):
                assert count(service, "stale_reads", tier, cache) == 0
                assert count(other, "stale_reads", tier, cache) == 0


def test_a_slow_database_slows_nobody(
    past_near: EnhancedDatabaseService, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is bounded: further samples are dropped, and no hit waits."""
    past_near.get_user_by_id(alice.id)
    with past_near._database.session("busy"):
        # every other connection is taken, so that no comparison comes to an end
        monkeypatch.setattr(past_near._database._pool, "_limit", 1)
        started = time.perf_counter()
        samples = past_near._cache._sampler._samples
        reads = 0
        # a comparison that gives up takes the next sample
        while not samples.full() or reads < 3 * counters.QUEUE_SAMPLES:
            past_near.get_user_by_id(alice.id)
            reads += 1
            assert time.perf_counter() - started < stretch(2)


class HasOne:
    """A shared cache that has the same value under every key."""

    def peek(self, *_: object) -> int:
        """Return the value."""
        return 1


@pytest.mark.parametrize(("answers", "is_stale"), [((1, 1), False), ((2, 1), False), ((2, 2), True)])
def test_a_row_that_gets_its_value_back_is_not_stale(
    service: EnhancedDatabaseService, answers: tuple[int, ...], *, is_stale: bool
) -> None:
    """The value was sampled as 1, changed to 2 and back to 1, and cached again."""
    loads = iter(answers)
    read = Read(Cached(USER, int, str), lambda keys: {keys[0]: next(loads)}, ())
    judge = counters.StaleReadSampler(
        1, metrics=service.metrics, near=service._cache._near, shared=cast(SharedCache, HasOne())
    )
    assert judge._is_stale(counters._Sample(read, "shared", "k", 1)) is is_stale


def test_it_is_off_by_default(service: EnhancedDatabaseService) -> None:
    """STALE_READ_SAMPLE=0 compares nothing and starts no thread."""
    assert Settings.model_fields["stale_read_sample"].default == 0
    off = counters.StaleReadSampler(0, metrics=service.metrics, near=service._cache._near, shared=None)
    off.sample("near", lambda: pytest.fail("sampled"), {"k": 1})
    assert off._thread is None
