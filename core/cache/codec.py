"""Turns values into what Redis stores, and back.

Owns the stored form: a marker, the shape of the type, the versions of the keys the
value depends on, then msgpack. The shape is a checksum of the type's fields, so a
process of another release sees a miss and never decodes an old form. Nothing is
pickled: what another program wrote under a key is a miss as well.
"""

import zlib
from typing import Any, Generic, TypeVar

import msgspec
from frozendict import deepfreeze, frozendict

T = TypeVar("T")

VALUE_MARKER = b"V"
LEASE_MARKER = b"L"


class Codec(Generic[T]):
    """Encodes and decodes one type of value."""

    def __init__(self, of: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(of, dec_hook=_decode_frozendict)
        self._encoder = msgspec.msgpack.Encoder()
        self._header = VALUE_MARKER + zlib.crc32(_describe(of).encode()).to_bytes(4, "big")

    def encode(self, value: T, versions: tuple[bytes, ...]) -> bytes:
        """Return the stored form of `value`, valid while its versions are."""
        return self._head(versions) + self._encoder.encode(value)

    def decode(self, stored: bytes, versions: tuple[bytes, ...]) -> T | None:
        """Return the value, or None when it is foreign, of another shape or outdated."""
        head = self._head(versions)
        if not stored.startswith(head):
            return None
        try:
            return self._decoder.decode(memoryview(stored)[len(head) :])
        except (msgspec.DecodeError, ValueError):
            # a truncated or corrupted value
            return None

    def _head(self, versions: tuple[bytes, ...]) -> bytes:
        if not versions:
            return self._header
        return self._header + b"".join(len(v).to_bytes(1, "big") + v for v in versions)


def is_lease(stored: bytes | None) -> bool:
    """Say whether the stored form is a lease: somebody is loading the value."""
    return stored is not None and stored.startswith(LEASE_MARKER)


def _decode_frozendict(kind: type, plain: Any) -> Any:
    if getattr(kind, "__origin__", kind) is frozendict:
        return deepfreeze(plain)
    raise NotImplementedError(kind)


def _describe(kind: Any) -> str:
    """Spell a type out: the names and types of every field, nested ones too."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = msgspec.structs.fields(kind)
        return f"{kind.__name__}({', '.join(f'{f.name}:{_describe(f.type)}' for f in fields)})"
    arguments = getattr(kind, "__args__", ())
    return f"{kind}[{', '.join(_describe(a) for a in arguments)}]" if arguments else str(kind)
