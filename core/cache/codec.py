"""Encodes values for Redis and decodes them.

Owns the stored form of a value:

- the mark, one byte: `V` for a value, `N` for a row that does not exist;
- the head: the schema of the type; the origin, which identifies the run of the Redis server and the timeline
  of the database (`core.cache.origin`); the versions on which the value depends;
- for `V` a checksum of the body, and the body in msgpack.

The schema is a checksum of `FORM` and of the type's fields. A release in which the type has other fields has
another schema, so values that it stored are a miss here. A value is outdated if its head differs from the
head that the reader builds. Nothing is pickled: a value that another program wrote or changed is a miss.
"""

import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final, Generic, TypeVar
from zlib import crc32

import msgspec
from frozendict import frozendict

from core.records import freeze

T = TypeVar("T")

# First byte of the stored bytes of a key, see `core.cache.leases_and_fences`.
VALUE_MARK = b"V"
NONE_MARK = b"N"
LEASE_MARK = b"L"
FENCE_MARK = b"F"
VERSION_MARK = b"R"
# Length of the token of a lease, a fence or a version: a mark and random bytes. Bytes of another length are
# not a token of this cache.
TOKEN_BYTES = 16
# Name of the stored form. It is part of each schema: after a change of this name, all values that were stored
# before are misses.
FORM = "origin, crc32, msgpack"
# Length of the origin in a stored value. It identifies the run of the Redis server, see `core.cache.origin`.
ORIGIN_BYTES = 8
UNKNOWN_ORIGIN = bytes(ORIGIN_BYTES)
# Length of the checksum. Without a checksum, a corrupted byte could be decoded as a wrong value.
CHECKSUM_BYTES = 4


class Unstorable(Exception):
    """The value cannot be encoded as msgpack, for example an integer of more than 64 bits."""


class Absent:
    """Stands for a row that does not exist. It is cached like a value (negative caching)."""


ABSENT: Final = Absent()
# Shared by all empty JSON documents, because most documents are empty.
_EMPTY: Final[frozendict[str, Any]] = frozendict()


class Codec(Generic[T]):
    """Encodes and decodes values of one type."""

    def __init__(self, of: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(of, dec_hook=_decode_frozendict)
        # a UUID in 16 bytes is shorter than its text and is decoded faster; the decoder accepts both forms
        self._encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
        self.schema = crc32(f"{FORM}: {_describe(of)}".encode()).to_bytes(4, "big")
        """The four bytes after the mark in every stored value of this type."""

    def make_head(self, origin: bytes, versions: Iterable[bytes]) -> bytes:
        """Return the head of a value of this type.

        `origin` identifies the run of the Redis server. `versions` are those on which the value depends.
        """
        return (
            self.schema + origin + b"".join(len(version).to_bytes(1, "big") + version for version in versions)
        )

    def decode_many(
        self, keys: Sequence[str], stored: Sequence[bytes | None], origin: bytes
    ) -> tuple[dict[str, T | Absent], list[str]]:
        """Return the current values by key, and the keys whose values are current but damaged.

        `stored` lists the bytes of each key, then the bytes of each version key on which the values depend.
        """
        versions = [each for each in stored[len(keys) :] if each is not None and is_version(each)]
        found: dict[str, T | Absent] = {}
        damaged: list[str] = []
        if len(versions) < len(stored) - len(keys):
            # a version is missing, fenced or not written by this cache: no value that depends on it is
            # current
            return found, damaged
        head = self.make_head(origin, versions)
        for key, value in zip(keys, stored, strict=False):
            if value is None:
                continue
            decoded = self.decode(value, head)
            if decoded is not None:
                found[key] = decoded
            elif is_current(value, head):
                damaged.append(key)
        return found, damaged

    def encode(self, value: T | Absent, head: bytes) -> bytes:
        """Return the stored form of `value` with this head. Raises `Unstorable`."""
        if isinstance(value, Absent):
            return NONE_MARK + head
        try:
            body = self._encoder.encode(value)
        except (OverflowError, RecursionError, TypeError, ValueError) as error:
            raise Unstorable(str(error)) from error
        return VALUE_MARK + head + _checksum(body) + body

    def decode(self, stored: bytes, head: bytes) -> T | Absent | None:
        """Return the value, or None if the stored bytes are outdated, corrupted or not of this type."""
        if not stored.startswith(head, 1) or stored[:1] != VALUE_MARK:
            return ABSENT if stored == NONE_MARK + head else None
        start = 1 + len(head) + CHECKSUM_BYTES
        body = stored[start:]
        if _checksum(body) != stored[1 + len(head) : start]:
            return None
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, RecursionError, ValueError):
            # the checksum only proves that the bytes are those that were stored, not that they fit this type
            return None


def is_current(stored: bytes, head: bytes) -> bool:
    """Return whether a value was stored with this head. Its body may still be damaged."""
    return stored[:1] in {VALUE_MARK, NONE_MARK} and stored.startswith(head, 1)


def _checksum(body: bytes) -> bytes:
    return crc32(body).to_bytes(CHECKSUM_BYTES, "big")


def new_token(mark: bytes) -> bytes:
    """Return a new random token for a lease, a fence or a version. It begins with `mark`."""
    return mark + secrets.token_bytes(TOKEN_BYTES - 1)


def is_lease(stored: bytes | None) -> bool:
    """Return whether the stored bytes are a lease, which means that another reader is loading the value."""
    return _is_token(stored, LEASE_MARK)


def is_version(stored: bytes | None) -> bool:
    """Return whether the stored bytes of a version key are a version, and not a fence or foreign bytes."""
    return _is_token(stored, VERSION_MARK)


def _is_token(stored: bytes | None, mark: bytes) -> bool:
    return stored is not None and len(stored) == TOKEN_BYTES and stored[:1] == mark


def _decode_frozendict(kind: type, plain: Any) -> Any:
    # msgspec calls this for each frozendict, for example once for each entry of a leaderboard
    if isinstance(plain, dict):
        return freeze(plain) if plain else _EMPTY
    raise ValueError(f"no mapping for {kind}")


def _describe(kind: Any) -> str:
    """Return a text with the names and types of all fields of a type, nested fields included."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = msgspec.structs.fields(kind)
        return f"{kind.__name__}({', '.join(f'{f.name}:{_describe(f.type)}' for f in fields)})"
    arguments = getattr(kind, "__args__", ())
    return f"{kind}[{', '.join(_describe(a) for a in arguments)}]" if arguments else str(kind)
