"""What follows from the list of kinds, and what the declaration of a cached read refuses."""

import pytest

from core.cache.kinds import (
    FAMILIES,
    KINDS,
    QUESTS,
    USER,
    USERNAMES_VERSION_KEY,
    Cached,
    CacheKind,
    find_kind_name,
    version_key,
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_is_subscribed_to_and_counted(kind: CacheKind) -> None:
    """A kind that is missing from the families would never be invalidated in other processes."""
    keys = (f"{kind.name}:1", version_key(kind), version_key(kind, "a", 1))
    assert [find_kind_name(key) for key in keys] == [kind.name] * 3
    assert all(key.startswith(FAMILIES) for key in keys)


def test_the_version_of_all_usernames_counts_as_users() -> None:
    """It is the only version key that is not named after a kind."""
    assert find_kind_name(USERNAMES_VERSION_KEY) == USER.name


def test_a_key_of_no_kind_is_refused() -> None:
    """No process would hear of its invalidation."""
    with pytest.raises(ValueError, match="no kind of cache key is called 'trade'; add it to KINDS"):
        find_kind_name("trade:1")


def test_a_key_outside_of_its_kind_is_refused() -> None:
    """A time to live of its own replaces that of the kind."""
    read = Cached(QUESTS, int, lambda number: f"quest:{number}")
    assert (read.ttl_seconds, Cached(QUESTS, int, str, ttl_seconds=5).ttl_seconds) == (180, 5)
    with pytest.raises(ValueError, match="ttl_seconds is 3601; give at most 3600"):
        Cached(QUESTS, int, str, ttl_seconds=3601)
    with pytest.raises(ValueError, match="the key 'quest:1' has to begin with 'quests:'"):
        read.check_key(read.key(1))
