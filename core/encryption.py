"""Encrypts the values of single columns, and computes blind indexes by which equal values are found.

Owns the keys, the list of encrypted columns, and the stored forms. A value is encrypted with AES-256-GCM
(NIST SP 800-38D) under a random nonce, with table, column and row as associated data, and stored as
`v1.KEY_ID.base64url(nonce, ciphertext, tag)`. Its index is `KEY_ID.base64url(HMAC-SHA256)`: without the key
the index shows only which rows have equal values. HKDF-SHA256 (RFC 5869) derives a key for each column and
purpose.
Runs no statement.
"""

import base64
import binascii
import hmac
import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Self
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.errors import EncryptionKeyMissing

KEY_BYTES: Final = 32
FORM: Final = "v1"
_NONCE_BYTES = 12  # the size that NIST SP 800-38D recommends for GCM
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}\Z")


class EncryptionKeysError(ValueError):
    """The value of ENCRYPTION_KEYS is invalid; the message shows no part of a key."""


class Undecipherable(Exception):
    """A stored value cannot be decrypted; the message says why."""


class Key(NamedTuple):
    """One secret key of ENCRYPTION_KEYS."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        """Return the id without the secret."""
        return f"Key({self.id!r})"


class Keyring:
    """The keys of this process: the first encrypts, and all of them decrypt."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys = tuple(keys)

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """Return the keys in lines of `KEY_ID:BASE64`, no keys for None. Raises `EncryptionKeysError`."""
        if text is None:
            return cls()
        lines = [line for line in re.split(r"[\n,]", text) if line.strip()]
        keys = [_parse_key(line.strip(), number) for number, line in enumerate(lines, 1)]
        if not keys:
            raise EncryptionKeysError("it has no key")
        for name, values in (("id", [key.id for key in keys]), ("value", [key.secret for key in keys])):
            if len(set(values)) < len(keys):
                raise EncryptionKeysError(f"two keys have the same {name}")
        return cls(keys)

    @property
    def current(self) -> Key:
        """The key with which values are encrypted. Raises `EncryptionKeyMissing`."""
        if not self.keys:
            raise EncryptionKeyMissing(
                "e-mail addresses are encrypted, and ENCRYPTION_KEYS is not set; `make up` creates a key,"
                " docs/encryption.md says how to make one elsewhere"
            )
        return self.keys[0]


def new_key_line(key_id: str) -> str:
    """Return a line of ENCRYPTION_KEYS with a new random key."""
    return f"{key_id}:{base64.b64encode(os.urandom(KEY_BYTES)).decode()}"


def _parse_key(line: str, number: int) -> Key:
    key_id, colon, encoded = line.partition(":")
    if not colon or not _KEY_ID.match(key_id):
        # the line is not shown, because without an id it may be the key itself
        raise EncryptionKeysError(
            f"key {number} does not begin with an id of 1 to 32 letters, digits, '_' and '-' and a colon"
        )
    try:
        # accepts both alphabets of base64: standard and URL-safe
        secret = binascii.a2b_base64(encoded.strip().translate(_STANDARD_ALPHABET), strict_mode=True)
    except ValueError:
        raise EncryptionKeysError(f"the key {key_id!r} is not base64") from None
    if len(secret) != KEY_BYTES:
        raise EncryptionKeysError(f"the key {key_id!r} has {len(secret)} bytes instead of {KEY_BYTES}")
    return Key(key_id, secret)


class Column(NamedTuple):
    """An encrypted column; two values count as equal if `normalise` returns the same text for both."""

    table: str
    name: str
    normalise: Callable[[str], str]


def normalise_email(address: str) -> str:
    """Return the form in which addresses are compared: NFC, without outer spaces, case folded."""
    if address.isascii():
        return address.strip().lower()
    folded = unicodedata.normalize("NFC", address.strip()).casefold()
    # normalise again, because case folding can decompose a character
    return unicodedata.normalize("NFC", folded)


EMAIL: Final = Column("users", "email", normalise_email)


class _ColumnKey(NamedTuple):
    cipher: AESGCM
    index_secret: bytes


class ColumnCipher:
    """Encrypts and decrypts the values of one column, and computes their indexes; thread safe."""

    def __init__(self, keyring: Keyring, column: Column) -> None:
        self._keyring = keyring
        self._normalise = column.normalise
        place = f"{column.table}.{column.name}"
        self._place = f"{place}\x00".encode()
        self._keys = {
            key.id: _ColumnKey(
                AESGCM(_derive(key.secret, f"encrypt {place}")), _derive(key.secret, f"index {place}")
            )
            for key in keyring.keys
        }

    @property
    def current_id(self) -> str:
        """The id of the key with which values are encrypted. Raises `EncryptionKeyMissing`."""
        return self._keyring.current.id

    def encrypt(self, row_id: UUID, text: str) -> str:
        """Return the stored form of a value of this row; it differs in each call (random nonce).

        Raises `EncryptionKeyMissing`.
        """
        key_id = self.current_id
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._keys[key_id].cipher.encrypt(nonce, text.encode(), self._place + row_id.bytes)
        return f"{FORM}.{key_id}.{_encode(nonce + sealed)}"

    def decrypt(self, row_id: UUID, stored: str) -> str:
        """Return the decrypted value of a stored form. Raises `Undecipherable`."""
        form, _, rest = stored.partition(".")
        key_id, _, encoded = rest.partition(".")
        key = self._keys.get(key_id)
        if form != FORM or key is None:
            if find_key_id(stored) is None:
                raise Undecipherable(f"it is not of the form {FORM}.KEY_ID.VALUE")
            raise Undecipherable(f"ENCRYPTION_KEYS has no key {key_id!r}")
        try:
            sealed = _decode(encoded)
            nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            return key.cipher.decrypt(nonce, ciphertext, self._place + row_id.bytes).decode()
        except (InvalidTag, ValueError):
            raise Undecipherable(
                f"it was changed, moved from another row, or encrypted with another key than {key_id!r}"
            ) from None

    def index(self, text: str) -> str:
        """Return the index of a value under the current key. Raises `EncryptionKeyMissing`."""
        return self._index(self.current_id, text)

    def list_indexes(self, text: str) -> list[str]:
        """Return the index of a value under each key, because a stored row may have any of these keys.

        Raises `EncryptionKeyMissing`.
        """
        _ = self.current_id
        return [self._index(key_id, text) for key_id in self._keys]

    def _index(self, key_id: str, text: str) -> str:
        digest = hmac.digest(self._keys[key_id].index_secret, self._normalise(text).encode(), "sha256")
        return f"{key_id}.{_encode(digest)}"


def find_key_id(stored: str) -> str | None:
    """Return the id of the key in a stored value, or None if the text is not a stored value."""
    parts = stored.split(".")
    return parts[1] if len(parts) == 3 and parts[0] == FORM and _KEY_ID.match(parts[1]) else None


def _derive(secret: bytes, purpose: str) -> bytes:
    info = f"echo-markets {purpose}".encode()
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


_STANDARD_ALPHABET = str.maketrans("-_", "+/")
_STANDARD_BYTES = bytes.maketrans(b"-_", b"+/")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    """Return the bytes that `_encode` has encoded; raises `ValueError` for any other encoding of them.

    Other decoders accept several texts for the same bytes.
    """
    # takes half the time of base64.urlsafe_b64decode
    encoded = text.encode("ascii").translate(_STANDARD_BYTES)
    data = binascii.a2b_base64(encoded + b"=" * (-len(encoded) % 4))
    if _encode(data) != text:
        raise ValueError("not encoded like this")
    return data
