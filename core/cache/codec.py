"""Turns values into what Redis stores, and back.

Owns the stored form: a mark, the shape of the type, the versions of the keys the value
depends on, a checksum of what follows, then msgpack. The shape is a checksum of this form and
the type's fields, so a process of another release sees a miss and never decodes an old one.
Nothing is pickled: what another program wrote under a key, or changed of a value there, is a miss as well.
"""

import secrets
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
FORM = "crc32, msgpack"
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
        self._value_head = VALUE_MARK + self.shape

    def encode(self, value: T | Absent, versions: tuple[bytes, ...]) -> bytes:
        """Return the stored form of `value`, valid while its versions are; raises `Unstorable`."""
        if isinstance(value, Absent):
            return self._head(NONE_MARK, versions)
        try:
            body = self._encoder.encode(value)
        except (OverflowError, RecursionError, TypeError, ValueError) as error:
            raise Unstorable(str(error)) from error
        return self._head(VALUE_MARK, versions) + _sum_up(body) + body

    def decode(self, stored: bytes, versions: tuple[bytes, ...]) -> T | Absent | None:
        """Return the value, or None when it is foreign, corrupted, of another shape or outdated."""
        head = self._head(VALUE_MARK, versions) if versions else self._value_head
        if not stored.startswith(head):
            return ABSENT if stored == self._head(NONE_MARK, versions) else None
        start = len(head) + CHECKSUM_BYTES
        body = stored[start:]
        if crc32(body).to_bytes(CHECKSUM_BYTES, "big") != stored[len(head) : start]:
            return None
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, RecursionError, ValueError):
            # the checksum says that it is whole, not that this release wrote it
            return None

    def is_current(self, stored: bytes, versions: tuple[bytes, ...]) -> bool:
        """Say whether it was stored as this type and under these versions, readable or not."""
        return stored[:1] in {VALUE_MARK, NONE_MARK} and stored.startswith(self._head(b"", versions), 1)

    def _head(self, mark: bytes, versions: tuple[bytes, ...]) -> bytes:
        head = mark + self.shape
        if not versions:
            return head
        return head + b"".join(len(v).to_bytes(1, "big") + v for v in versions)


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
