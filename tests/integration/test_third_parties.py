"""What others do behind the service's back, to its keys and to its rows: never an error, never wrong."""

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
    """Return what lies under a key."""
    stored = client.get(key)
    assert isinstance(stored, bytes)
    return stored


def test_a_document_that_cannot_be_cached_is_read_all_the_same(
    service: EnhancedDatabaseService, alice: User, bob: User, execute: Execute, redis_client: redis.Redis
) -> None:
    """A number of 70 bits in a row breaks neither its own reads nor those of its leaderboard."""
    service.update_leaderboard_entry(alice.id, "b", 1)  # type: ignore[arg-type]  # a whole number is one
    execute("UPDATE users SET preferences = %s WHERE id = %s", (f'{{"n": {2**70}}}', alice.id))
    execute("UPDATE leaderboard_entries SET metadata = %s", (f'{{"n": {2**70}}}',))
    service.clear_user_cache(alice.id)
    for _ in range(2):
        assert service.get_user_by_id(alice.id).preferences["n"] == 2**70
        assert service.get_leaderboard("b")[0].metadata["n"] == 2**70
    assert redis_client.get(f"user:{alice.id}") is None, "no lease is left either"
    counts = service.cache_stats().caches["user"]
    assert counts.stale_fills_refused == 0, "nothing came too late"
    # all keys at once: those that can be stored are
    service._warm_users("warm_cache", [alice.id, bob.id])
    assert redis_client.get(f"user:{alice.id}") is None
    assert get_bytes(redis_client, f"user:{bob.id}").startswith(b"V")


def test_a_byte_that_was_changed_is_noticed(
    service: EnhancedDatabaseService, alice: User, redis_client: redis.Redis
) -> None:
    """The value would be decoded as another name; it is a miss, and is replaced."""
    service.update_user_profile(alice.id, name="a" * 20)
    service.get_user_by_id(alice.id)
    key = f"user:{alice.id}"
    stored = get_bytes(redis_client, key)
    redis_client.setrange(key, stored.index(b"a" * 20) + 5, "Z")
    for _ in range(2):
        service._cache._near.clear()
        assert service.get_user_by_id(alice.id).name == "a" * 20
    assert b"a" * 20 in get_bytes(redis_client, key)


def test_one_reader_waits_for_a_lease_whose_owner_died(
    service: EnhancedDatabaseService,
    alice: User,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first reader finds that nobody fills the key; later readers do not wait again."""
    key = f"user:{alice.id}"

    def read() -> float:
        started = time.monotonic()
        assert service.get_user_by_id(alice.id) == alice
        return time.monotonic() - started

    monkeypatch.setattr(read_through, "WAIT_SECONDS", 0.3)
    redis_client.set(key, b"L" + b"x" * 15, px=300_000)
    assert read() >= 0.2
    monkeypatch.setattr(read_through, "WAIT_SECONDS", 120.0)
    assert read() < 60, "it is known that nobody fills it"
    monkeypatch.setattr(read_through, "WAIT_SECONDS", 0.3)
    redis_client.set(key, b"L" + b"y" * 15, px=300_000)
    assert read() >= 0.2, "the owner of another lease may be alive"
    redis_client.delete(key)
    read()
    assert get_bytes(redis_client, key).startswith(b"V")


def test_prices_of_a_symbol_that_was_deleted_are_cleared_too(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """Someone who deletes ticks without the service has one call to drop cached prices."""
    for symbol in ("AAPL", "MSFT"):
        service.insert_market_tick(symbol, Decimal(1))
    assert len(service.get_latest_market_data(["AAPL", "MSFT"])) == 2
    execute("DELETE FROM ticks WHERE symbol = 'MSFT'")
    service.clear_market_data_cache()
    assert [tick.symbol for tick in service.get_latest_market_data(["AAPL", "MSFT"])] == ["AAPL"]


def test_a_key_that_goes_between_look_and_lease_is_filled(
    service: EnhancedDatabaseService,
    alice: User,
    bob: User,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The key disappears before its lease is requested; the lease is granted, and nobody waits."""
    shared = service._cache._shared
    assert shared is not None
    key, client = f"user:{alice.id}", shared._client
    service.get_user_by_id(alice.id)
    service._cache._near.clear()
    service.get_user_by_id(bob.id)
    assert "user" in service._cache._reader._missed, "the next read looks and leases in one breath"
    asked: list[bytes] = []

    def look_and_lease(
        keys: Sequence[str], script: Script, arguments: Sequence[Any], _: Sequence[str]
    ) -> tuple[Any, Any]:
        found = client.get_many(keys)
        asked.extend(found)
        redis_client.delete(key)
        return found, client.run(script, keys, arguments)

    monkeypatch.setattr(client, "get_and_run", look_and_lease)
    assert service.get_user_by_id(alice.id) == alice
    assert asked[0].startswith(b"V"), "it was there"
    # the next read asks Redis, behind the fill
    service._cache._near.clear()
    assert service.get_user_by_id(alice.id) == alice
    assert get_bytes(redis_client, key).startswith(b"V"), "no lease is left"
