"""Turns values into what Redis stores, and back.

Owns the stored form: a mark, then a head (the shape of the type, the origin of the server's data, the
versions of the keys that the value depends on), a checksum of what follows, then msgpack. The shape
is a checksum of this form and the type's fields, so a process of another release sees a miss and
never decodes an old one. A value whose head is another one than the reader's is outdated.
Nothing is pickled: what another program wrote under a key, or changed of a value there, is a miss as well.
"""

import secrets
from collections.abc import Iterable
from typing import Any, Final, Generic, TypeVar
from zlib import crc32

import msgspec
from frozendict import frozendict

from core.records import freeze

T = TypeVar("T")

VALUE_MARK = b"V"
NONE_MARK = b"N"
LEASE_MARK = b"L"
FENCE_MARK = b"F"
VERSION_MARK = b"R"
# A mark and random bytes; what is longer or shorter was written by somebody else.
TOKEN_BYTES = 16
# How a value is stored, whatever its type: another name makes a miss of what was stored before.
FORM = "origin, crc32, msgpack"
# See core.cache.origin.
ORIGIN_BYTES = 8
UNKNOWN_ORIGIN = bytes(ORIGIN_BYTES)
# A byte that was changed in place would decode as a value that nobody wrote.
CHECKSUM_BYTES = 4


class Unstorable(Exception):
    """Msgpack has no form for a value, such as for a number of more than 64 bits."""


class Absent:
    """Says that the database has no such row: a value like any other to the cache."""


ABSENT: Final = Absent()
# What most documents are.
_EMPTY: Final[frozendict[str, Any]] = frozendict()


class Codec(Generic[T]):
    """Encodes and decodes one type of value."""

    def __init__(self, of: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(of, dec_hook=_decode_frozendict)
        # 16 bytes instead of a text, and decoded in less time; either is understood
        self._encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
        self.shape = crc32(f"{FORM}: {_describe(of)}".encode()).to_bytes(4, "big")
        """Stands behind the mark of every value of this type."""

    def make_head(self, origin: bytes, versions: Iterable[bytes]) -> bytes:
        """Return what a value has behind its mark that is current on this origin and under these versions."""
        return (
            self.shape + origin + b"".join(len(version).to_bytes(1, "big") + version for version in versions)
        )

    def encode(self, value: T | Absent, head: bytes) -> bytes:
        """Return the stored form of `value`, current under this head; raises `Unstorable`."""
        if isinstance(value, Absent):
            return NONE_MARK + head
        try:
            body = self._encoder.encode(value)
        except (OverflowError, RecursionError, TypeError, ValueError) as error:
            raise Unstorable(str(error)) from error
        return VALUE_MARK + head + _sum_up(body) + body

    def decode(self, stored: bytes, head: bytes) -> T | Absent | None:
        """Return the value, or None when it is foreign, corrupted or outdated."""
        if not stored.startswith(head, 1) or stored[:1] != VALUE_MARK:
            return ABSENT if stored == NONE_MARK + head else None
        start = 1 + len(head) + CHECKSUM_BYTES
        body = stored[start:]
        if crc32(body).to_bytes(CHECKSUM_BYTES, "big") != stored[1 + len(head) : start]:
            return None
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, RecursionError, ValueError):
            # the checksum says that it is whole, not that this release wrote it
            return None


def is_current(stored: bytes, head: bytes) -> bool:
    """Say whether a value was stored under this head, readable or not."""
    return stored[:1] in {VALUE_MARK, NONE_MARK} and stored.startswith(head, 1)


def _sum_up(body: bytes) -> bytes:
    return crc32(body).to_bytes(CHECKSUM_BYTES, "big")


def new_token(mark: bytes) -> bytes:
    """Return a token that nobody else has."""
    return mark + secrets.token_bytes(TOKEN_BYTES - 1)


def is_lease(stored: bytes | None) -> bool:
    """Say whether a lease lies under the key: another reader is loading the value."""
    return _is_token(stored, LEASE_MARK)


def is_version(stored: bytes | None) -> bool:
    """Say whether a version lies under the key; a fence, a lease and foreign bytes are none."""
    return _is_token(stored, VERSION_MARK)


def _is_token(stored: bytes | None, mark: bytes) -> bool:
    return stored is not None and len(stored) == TOKEN_BYTES and stored[:1] == mark


def _decode_frozendict(kind: type, plain: Any) -> Any:
    # called for every entry of a board; no other type of the records needs help
    if isinstance(plain, dict):
        return freeze(plain) if plain else _EMPTY
    raise ValueError(f"no mapping for {kind}")


def _describe(kind: Any) -> str:
    """Spell a type out: the names and types of every field, nested ones too."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = msgspec.structs.fields(kind)
        return f"{kind.__name__}({', '.join(f'{f.name}:{_describe(f.type)}' for f in fields)})"
    arguments = getattr(kind, "__args__", ())
    return f"{kind}[{', '.join(_describe(a) for a in arguments)}]" if arguments else str(kind)
