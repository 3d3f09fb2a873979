"""Other programs change cache keys or rows without the service: its reads succeed and are correct."""

import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
import redis

from core import EnhancedDatabaseService
from core.cache import read_through
from core.cache.client import Script
from core.records import User
from tests.conftest import Execute


def get_bytes(client: redis.Redis, key: str) -> bytes:
    """Return the bytes that are stored under a key."""
    stored = client.get(key)
    assert isinstance(stored, bytes)
    return stored


def test_a_document_that_cannot_be_cached_is_read(
    service: EnhancedDatabaseService, alice: User, bob: User, execute: Execute, redis_client: redis.Redis
) -> None:
    """A document with a 70-bit number cannot be cached; user and leaderboard are read nevertheless."""
    service.update_leaderboard_entry(alice.id, "b", 1)  # type: ignore[arg-type]  # a whole number is one
    execute("UPDATE users SET preferences = %s WHERE id = %s", (f'{{"n": {2**70}}}', alice.id))
    execute("UPDATE leaderboard_entries SET metadata = %s", (f'{{"n": {2**70}}}',))
    service.clear_user_cache(alice.id)
    for _ in range(2):
        assert service.get_user_by_id(alice.id).preferences["n"] == 2**70
        assert service.get_leaderboard("b")[0].metadata["n"] == 2**70
    assert redis_client.get(f"user:{alice.id}") is None, "neither a value nor a lease is left"
    counts = service.cache_stats().caches["user"]
    assert counts.stale_fills_refused == 0, "no fill counts as refused"
    # of several users, those that can be cached are cached
    service._warm_users("warm_cache", [alice.id, bob.id])
    assert redis_client.get(f"user:{alice.id}") is None
    assert get_bytes(redis_client, f"user:{bob.id}").startswith(b"V")


def test_a_value_with_a_changed_byte_is_a_miss(
    service: EnhancedDatabaseService, alice: User, redis_client: redis.Redis
) -> None:
    """A cached value with a changed byte is a miss and is replaced, not decoded as another name."""
    service.update_user_profile(alice.id, name="a" * 20)
    service.get_user_by_id(alice.id)
    key = f"user:{alice.id}"
    stored = get_bytes(redis_client, key)
    redis_client.setrange(key, stored.index(b"a" * 20) + 5, "Z")
    for _ in range(2):
        service._cache._near.clear()
        assert service.get_user_by_id(alice.id).name == "a" * 20
    assert b"a" * 20 in get_bytes(redis_client, key)


def test_one_reader_waits_for_an_abandoned_lease(
    service: EnhancedDatabaseService,
    alice: User,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first reader waits for the lease in vain; later readers do not wait for the same lease again."""
    key = f"user:{alice.id}"

    def read() -> float:
        started = time.monotonic()
        assert service.get_user_by_id(alice.id) == alice
        return time.monotonic() - started

    monkeypatch.setattr(read_through, "WAIT_SECONDS", 0.3)
    redis_client.set(key, b"L" + b"x" * 15, px=300_000)
    assert read() >= 0.2
    monkeypatch.setattr(read_through, "WAIT_SECONDS", 120.0)
    assert read() < 60, "the service knows that the lease is abandoned"
    monkeypatch.setattr(read_through, "WAIT_SECONDS", 0.3)
    redis_client.set(key, b"L" + b"y" * 15, px=300_000)
    assert read() >= 0.2, "the owner of another lease may be alive"
    redis_client.delete(key)
    read()
    assert get_bytes(redis_client, key).startswith(b"V")


def test_cached_prices_of_deleted_ticks_are_cleared(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """After ticks are deleted with SQL, clear_market_data_cache removes their cached prices."""
    for symbol in ("AAPL", "MSFT"):
        service.insert_market_tick(symbol, Decimal(1))
    assert len(service.get_latest_market_data(["AAPL", "MSFT"])) == 2
    execute("DELETE FROM ticks WHERE symbol = 'MSFT'")
    service.clear_market_data_cache()
    assert [tick.symbol for tick in service.get_latest_market_data(["AAPL", "MSFT"])] == ["AAPL"]


def test_a_key_deleted_before_its_lease_is_filled(
    service: EnhancedDatabaseService,
    alice: User,
    bob: User,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A key that is deleted between read and lease request is filled, and no reader waits."""
    shared = service._cache._shared
    assert shared is not None
    key, client = f"user:{alice.id}", shared._client
    service.get_user_by_id(alice.id)
    service._cache._near.clear()
    service.get_user_by_id(bob.id)
    assert "user" in service._cache._reader._missed, "the next read requests value and lease in one call"
    values: list[bytes] = []

    def read_delete_and_lease(
        keys: Sequence[str], script: Script, arguments: Sequence[Any], _: Sequence[str]
    ) -> tuple[Any, Any]:
        found = client.get_many(keys)
        values.extend(found)
        redis_client.delete(key)
        return found, client.run(script, keys, arguments)

    monkeypatch.setattr(client, "get_and_run", read_delete_and_lease)
    assert service.get_user_by_id(alice.id) == alice
    assert values[0].startswith(b"V"), "the value was still cached"
    # Redis handles this read after the fill, which was sent without waiting
    service._cache._near.clear()
    assert service.get_user_by_id(alice.id) == alice
    assert get_bytes(redis_client, key).startswith(b"V"), "no lease is left"
