"""Encrypts the values of a column, and computes a blind index of each value, to search for equal values.

Owns the keys, the list of encrypted columns, and the stored forms. Executes no SQL.

A value is encrypted with AES-256-GCM (NIST SP 800-38D) under a random nonce. Table, column and row id are the
associated data. The stored form is `v1.KEY_ID.base64url(nonce, ciphertext, tag)`.

The blind index is `KEY_ID.base64url(HMAC-SHA256)`. Equal values have equal indexes. Without the key, the
indexes show only which values are equal. For each column, HKDF-SHA256 (RFC 5869) derives one key for the
encryption and another key for the index.
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
    """The value of ENCRYPTION_KEYS is invalid. The message contains the id of a key, never its secret."""


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
    """The keys of this process. The first key encrypts; every key decrypts."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys = tuple(keys)

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """Return the keyring for a value of ENCRYPTION_KEYS: lines of `KEY_ID:BASE64`.

        None gives a keyring without keys. Raises `EncryptionKeysError`.
        """
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
        """The first key, which encrypts. Raises `EncryptionKeyMissing` if there is no key."""
        if not self.keys:
            raise EncryptionKeyMissing(
                "e-mail addresses are encrypted, and ENCRYPTION_KEYS is not set; `make up` creates a key,"
                " docs/encryption.md says how to make one elsewhere"
            )
        return self.keys[0]


def new_key_line(key_id: str) -> str:
    """Return a line for ENCRYPTION_KEYS: `key_id` and a new random key."""
    return f"{key_id}:{base64.b64encode(os.urandom(KEY_BYTES)).decode()}"


def _parse_key(line: str, number: int) -> Key:
    key_id, colon, encoded = line.partition(":")
    if not colon or not _KEY_ID.match(key_id):
        # do not show the line: without an id, it may be the key itself
        raise EncryptionKeysError(
            f"key {number} does not begin with an id of 1 to 32 letters, digits, '_' and '-' and a colon"
        )
    try:
        # accept both standard and URL-safe base64
        secret = binascii.a2b_base64(encoded.strip().translate(_STANDARD_ALPHABET), strict_mode=True)
    except ValueError:
        raise EncryptionKeysError(f"the key {key_id!r} is not base64") from None
    if len(secret) != KEY_BYTES:
        raise EncryptionKeysError(f"the key {key_id!r} has {len(secret)} bytes instead of {KEY_BYTES}")
    return Key(key_id, secret)


class Column(NamedTuple):
    """An encrypted column. Two values are equal if `normalise` returns the same text for both."""

    table: str
    name: str
    normalise: Callable[[str], str]


def normalise_email(address: str) -> str:
    """Return the form in which addresses are compared: NFC, without spaces at the ends, case folded."""
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
    """Encrypts and decrypts the values of one column, and computes their blind indexes; thread safe."""

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
        """The id of the key that encrypts. Raises `EncryptionKeyMissing`."""
        return self._keyring.current.id

    def encrypt(self, row_id: UUID, text: str) -> str:
        """Encrypt the value `text` of the row `row_id`, and return the stored form.

        Each call returns a different stored form, because the nonce is random. Raises `EncryptionKeyMissing`.
        """
        key_id = self.current_id
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._keys[key_id].cipher.encrypt(nonce, text.encode(), self._place + row_id.bytes)
        return f"{FORM}.{key_id}.{_encode(nonce + sealed)}"

    def decrypt(self, row_id: UUID, stored: str) -> str:
        """Decrypt the stored form of a value of the row `row_id`, and return the value.

        Raises `Undecipherable` if the key is missing, if the stored form was changed, or if it belongs to
        another row.
        """
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
        """Return the blind index of a value, computed with the first key. Raises `EncryptionKeyMissing`."""
        return self._index(self.current_id, text)

    def list_indexes(self, text: str) -> list[str]:
        """Return the blind indexes of a value, one for each key.

        A search needs all of them: any of the keys may have encrypted the row. Raises `EncryptionKeyMissing`.
        """
        _ = self.current_id
        return [self._index(key_id, text) for key_id in self._keys]

    def _index(self, key_id: str, text: str) -> str:
        digest = hmac.digest(self._keys[key_id].index_secret, self._normalise(text).encode(), "sha256")
        return f"{key_id}.{_encode(digest)}"


def find_key_id(stored: str) -> str | None:
    """Return the key id in the stored form of a value, or None if `stored` does not have that form."""
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
    """Return the bytes for which `_encode` returns `text`; raises `ValueError` if there are none.

    A usual base64 decoder accepts several texts for the same bytes.
    """
    # this takes half the time of base64.urlsafe_b64decode
    encoded = text.encode("ascii").translate(_STANDARD_BYTES)
    data = binascii.a2b_base64(encoded + b"=" * (-len(encoded) % 4))
    if _encode(data) != text:
        raise ValueError("not encoded like this")
    return data
