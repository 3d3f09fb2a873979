"""The parts of the cache that need no server: stored form and circuit breaker."""

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
    """A schema of an earlier release."""

    id: int


class NewUser(msgspec.Struct):
    """The same name in the table, one field more."""

    id: int
    name: str = ""


def test_a_value_comes_back_equal_and_immutable() -> None:
    """The decoded value equals the encoded one, and nested documents are frozen."""
    decoded = CODEC.decode(CODEC.encode((ENTRY,), HEAD), HEAD)
    assert isinstance(decoded, tuple)
    [entry] = decoded
    assert entry == ENTRY
    assert isinstance(entry.metadata["a"], tuple)
    assert isinstance(entry.score, Decimal)


def test_a_value_is_bound_to_its_versions_and_its_origin() -> None:
    """The value is a miss once a key that it depends on has changed, or the server has other data."""
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


def test_that_there_is_no_row_is_a_value_too() -> None:
    """The absence of a row is stored and bound to versions like a value, and is no value of the type."""
    one, two = (CODEC.make_head(ORIGIN, [version]) for version in (b"one", b"two"))
    stored = CODEC.encode(ABSENT, one)
    assert CODEC.decode(stored, one) is ABSENT
    assert CODEC.decode(stored, two) is None
    assert CODEC.decode(stored + b"x", one) is None


def test_another_schema_is_a_miss() -> None:
    """A process never decodes values that a release with other fields stored."""
    old, new = Codec[OldUser](OldUser), Codec[NewUser](NewUser)
    stored = old.encode(OldUser(1), old.make_head(ORIGIN, []))
    assert new.decode(stored, new.make_head(ORIGIN, [])) is None


@given(st.binary(max_size=200))
def test_foreign_bytes_are_a_miss(stored: bytes) -> None:
    """Bytes that another program wrote under a key are a miss and never an error."""
    assert CODEC.decode(stored, HEAD) is None


@given(st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_a_corrupted_value_is_a_miss_or_itself(place: int, noise: bytes) -> None:
    """A truncated or overwritten value raises no error and is never decoded as another value."""
    stored = CODEC.encode((ENTRY,), HEAD)
    place %= len(stored)
    assert CODEC.decode(stored[:place], HEAD) is None
    changed = stored[:place] + noise + stored[place + len(noise) :]
    assert CODEC.decode(changed, HEAD) in (None, (ENTRY,))


def test_another_form_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release with another stored form never decodes the values of this one."""
    stored = CODEC.encode((ENTRY,), HEAD)
    monkeypatch.setattr(codec, "FORM", "another")
    other: Codec[tuple[LeaderboardEntry, ...]] = Codec(tuple[LeaderboardEntry, ...])
    assert other.decode(stored, other.make_head(ORIGIN, [])) is None


def test_what_msgpack_cannot_hold_is_said() -> None:
    """A number that another program put into a document raises `Unstorable` and no other error."""
    entry = msgspec.structs.replace(ENTRY, metadata=frozendict({"n": 2**70}))
    with pytest.raises(Unstorable):
        CODEC.encode((entry,), HEAD)


def test_a_lease_is_no_value() -> None:
    """A lease means that a reader is loading the value, a fence that a writer is committing."""
    assert not is_lease(b"F123")
    assert is_lease(b"L123456789abcdef")
    assert not is_lease(b"Lorem ipsum"), "no token: somebody else wrote it"
    assert not is_lease(CODEC.encode((), HEAD))
    assert not is_lease(None)
    assert CODEC.decode(b"L123", HEAD) is None


def test_a_version_is_nothing_else() -> None:
    """A lease token is never accepted as a version, because it has another mark."""
    assert is_version(new_token(VERSION_MARK))
    assert not is_lease(new_token(VERSION_MARK))
    for mark in (LEASE_MARK, FENCE_MARK, VALUE_MARK):
        assert not is_version(new_token(mark))
    assert not is_version(b"R123"), "no token: somebody else wrote it"


def test_a_version_is_never_proposed_twice() -> None:
    """Two keys of one call get different versions, also when a lease token is used again."""
    token = new_token(LEASE_MARK)
    asked = [build_lease_request(token, ["board"], ["a", "b"], b"schema")[-2:] for _ in range(2)]
    assert len({*asked[0], *asked[1], token}) == 5
    assert all(is_version(version) for versions in asked for version in versions)


def test_a_damaged_value_is_still_current() -> None:
    """Its head is current, so no lease is granted for the key."""
    stored, other = CODEC.encode((ENTRY,), HEAD), Codec[OldUser](OldUser)
    assert is_current(stored[:-1], HEAD)
    assert is_current(CODEC.encode(ABSENT, HEAD), HEAD)
    assert not is_current(stored, CODEC.make_head(ORIGIN, [b"two"]))
    assert not is_current(b"L" + stored[1:], HEAD)
    assert not is_current(other.encode(OldUser(1), other.make_head(ORIGIN, [b"one"])), HEAD)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"# Server\r\nredis_version:7.0\r\nrun_id:abc123\r\ntcp_port:1\r\n", b"abc123"),
        ("run_id:abc123", b"abc123"),
        (b"last_run_id:abc123\r\n", b""),
        (ErrorReply("NOPERM no INFO"), b""),
        (None, b""),
    ],
)
def test_an_origin_is_found_or_unknown(answer: object, found: bytes) -> None:
    """The origin is known or unknown for every possible reply to INFO."""
    assert find_field(answer, b"run_id") == found
