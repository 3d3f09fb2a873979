"""The list of cache-key kinds, and the checks of a `Cached` declaration."""

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
def test_every_kind_has_a_family_and_a_name(kind: CacheKind) -> None:
    """Every key of a kind begins with one of `FAMILIES`, and `find_kind_name` returns the kind's name."""
    keys = (f"{kind.name}:1", version_key(kind), version_key(kind, "a", 1))
    assert [find_kind_name(key) for key in keys] == [kind.name] * 3
    assert all(key.startswith(FAMILIES) for key in keys)


def test_the_usernames_version_key_belongs_to_users() -> None:
    """The version key of all usernames belongs to the kind `user`."""
    assert find_kind_name(USERNAMES_VERSION_KEY) == USER.name


def test_a_key_of_an_unknown_kind_is_refused() -> None:
    """A key of an unknown kind raises an error, because no process would receive its invalidation."""
    with pytest.raises(ValueError, match="no kind of cache key is called 'trade'; add it to KINDS"):
        find_kind_name("trade:1")


def test_a_cached_read_checks_key_and_ttl() -> None:
    """A cached read refuses a key of another kind and a TTL over 3600 s; its own TTL replaces the kind's."""
    read = Cached(QUESTS, int, lambda number: f"quest:{number}")
    assert (read.ttl_seconds, Cached(QUESTS, int, str, ttl_seconds=5).ttl_seconds) == (180, 5)
    with pytest.raises(ValueError, match="ttl_seconds is 3601; give at most 3600"):
        Cached(QUESTS, int, str, ttl_seconds=3601)
    with pytest.raises(ValueError, match="the key 'quest:1' has to begin with 'quests:'"):
        read.check_key(read.key(1))
