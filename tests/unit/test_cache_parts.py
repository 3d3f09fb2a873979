"""The stored form of cached values, leases, fences and versions, and the origin in a reply to INFO."""

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import msgspec
import pytest
from frozendict import frozendict
from hypothesis import given
from hypothesis import strategies as st

from core.cache import codec
from core.cache.codec import (
    ABSENT,
    FENCE_MARK,
    LEASE_MARK,
    UNKNOWN_ORIGIN,
    VALUE_MARK,
    VERSION_MARK,
    Codec,
    Unstorable,
    is_current,
    is_lease,
    is_version,
    new_token,
)
from core.cache.connection import ErrorReply
from core.cache.leases_and_fences import build_lease_request
from core.cache.origin import find_field
from core.records import LeaderboardEntry

ENTRY = LeaderboardEntry(
    id=UUID(int=1),
    user_id=UUID(int=2),
    username="alice",
    session_date=date(2026, 3, 2),
    category="daily_returns",
    score=Decimal("1.50"),
    rank=1,
    metadata=frozendict({"a": (1, frozendict({"b": None}))}),
    created_at=datetime(2026, 3, 2, 21, tzinfo=UTC),
)
CODEC: Codec[tuple[LeaderboardEntry, ...]] = Codec(tuple[LeaderboardEntry, ...])
ORIGIN = b"of today"
HEAD = CODEC.make_head(ORIGIN, [b"one"])


class OldUser(msgspec.Struct):
    """The record of an earlier release."""

    id: int


class NewUser(msgspec.Struct):
    """The record of the next release, with one more field."""

    id: int
    name: str = ""


def test_a_decoded_value_is_equal_and_immutable() -> None:
    """A decoded value equals the encoded value, and its lists are tuples."""
    decoded = CODEC.decode(CODEC.encode((ENTRY,), HEAD), HEAD)
    assert isinstance(decoded, tuple)
    [entry] = decoded
    assert entry == ENTRY
    assert isinstance(entry.metadata["a"], tuple)
    assert isinstance(entry.score, Decimal)


def test_a_value_depends_on_versions_and_origin() -> None:
    """A value is a miss if the versions of the keys that it depends on, or the origin of its data, differ."""
    stored = CODEC.encode((ENTRY,), CODEC.make_head(ORIGIN, [b"one", b"two"]))
    assert CODEC.decode(stored, CODEC.make_head(ORIGIN, [b"one", b"two"])) == (ENTRY,)
    for origin, versions in (
        (ORIGIN, [b"one", b"three"]),
        (ORIGIN, [b"onet", b"wo"]),
        (ORIGIN, []),
        (b"of later", [b"one", b"two"]),
        (UNKNOWN_ORIGIN, [b"one", b"two"]),
    ):
        assert CODEC.decode(stored, CODEC.make_head(origin, versions)) is None


def test_a_missing_row_is_cached() -> None:
    """A missing row is stored as ABSENT, and is a miss after its versions have changed."""
    one, two = (CODEC.make_head(ORIGIN, [version]) for version in (b"one", b"two"))
    stored = CODEC.encode(ABSENT, one)
    assert CODEC.decode(stored, one) is ABSENT
    assert CODEC.decode(stored, two) is None
    assert CODEC.decode(stored + b"x", one) is None


def test_another_schema_is_a_miss() -> None:
    """A value that a release with other fields stored is a miss."""
    old, new = Codec[OldUser](OldUser), Codec[NewUser](NewUser)
    stored = old.encode(OldUser(1), old.make_head(ORIGIN, []))
    assert new.decode(stored, new.make_head(ORIGIN, [])) is None


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_miss(stored: bytes) -> None:
    """Arbitrary bytes under a key are a miss, not an error."""
    assert CODEC.decode(stored, HEAD) is None


@given(st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_a_corrupted_value_is_a_miss_or_itself(position: int, noise: bytes) -> None:
    """A truncated value is a miss; an overwritten one is a miss, or decodes to the original value."""
    stored = CODEC.encode((ENTRY,), HEAD)
    position %= len(stored)
    assert CODEC.decode(stored[:position], HEAD) is None
    changed = stored[:position] + noise + stored[position + len(noise) :]
    assert CODEC.decode(changed, HEAD) in (None, (ENTRY,))


def test_another_form_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of a release with another `FORM` is a miss."""
    stored = CODEC.encode((ENTRY,), HEAD)
    monkeypatch.setattr(codec, "FORM", "another")
    other: Codec[tuple[LeaderboardEntry, ...]] = Codec(tuple[LeaderboardEntry, ...])
    assert other.decode(stored, other.make_head(ORIGIN, [])) is None


def test_a_number_too_large_for_msgpack_is_refused() -> None:
    """A number that msgpack cannot encode raises `Unstorable`."""
    entry = msgspec.structs.replace(ENTRY, metadata=frozendict({"n": 2**70}))
    with pytest.raises(Unstorable):
        CODEC.encode((entry,), HEAD)


def test_a_lease_is_no_value() -> None:
    """Only bytes with the mark and length of a lease token are a lease; `decode` treats a lease as a miss."""
    assert not is_lease(b"F123")
    assert is_lease(b"L123456789abcdef")
    assert not is_lease(b"Lorem ipsum"), "no token: somebody else wrote it"
    assert not is_lease(CODEC.encode((), HEAD))
    assert not is_lease(None)
    assert CODEC.decode(b"L123", HEAD) is None


def test_only_a_version_token_is_a_version() -> None:
    """Only a token with the mark of a version is a version."""
    assert is_version(new_token(VERSION_MARK))
    assert not is_lease(new_token(VERSION_MARK))
    for mark in (LEASE_MARK, FENCE_MARK, VALUE_MARK):
        assert not is_version(new_token(mark))
    assert not is_version(b"R123"), "no token: somebody else wrote it"


def test_a_version_is_never_proposed_twice() -> None:
    """Two lease requests with the same token propose different versions for every key."""
    token = new_token(LEASE_MARK)
    proposed = [build_lease_request(token, ["key"], ["a", "b"], b"schema")[-2:] for _ in range(2)]
    assert len({*proposed[0], *proposed[1], token}) == 5
    assert all(is_version(version) for versions in proposed for version in versions)


def test_a_truncated_value_is_still_current() -> None:
    """A value counts as current if its head is current, even if the rest is truncated."""
    stored, other = CODEC.encode((ENTRY,), HEAD), Codec[OldUser](OldUser)
    assert is_current(stored[:-1], HEAD)
    assert is_current(CODEC.encode(ABSENT, HEAD), HEAD)
    assert not is_current(stored, CODEC.make_head(ORIGIN, [b"two"]))
    assert not is_current(b"L" + stored[1:], HEAD)
    assert not is_current(other.encode(OldUser(1), other.make_head(ORIGIN, [b"one"])), HEAD)


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (b"# Server\r\nredis_version:7.0\r\nrun_id:abc123\r\ntcp_port:1\r\n", b"abc123"),
        ("run_id:abc123", b"abc123"),
        (b"last_run_id:abc123\r\n", b""),
        (ErrorReply("NOPERM no INFO"), b""),
        (None, b""),
    ],
)
def test_a_field_of_info_is_found_or_empty(reply: object, found: bytes) -> None:
    """A field of INFO is found in the reply, and is empty if it is missing or INFO was refused."""
    assert find_field(reply, b"run_id") == found
