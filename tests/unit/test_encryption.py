"""The encryption of single column values, and which changes of a stored value are detected."""

import base64
import logging
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.encryption import (
    EMAIL,
    Column,
    ColumnCipher,
    EncryptionKeysError,
    Keyring,
    Undecipherable,
    find_key_id,
    new_key_line,
    normalise_email,
)
from core.errors import EncryptionKeyMissing, SettingsError
from core.records import User, freeze
from core.records.game import StoredUser
from core.service.email_encryption import UserEmails

OLD, NEW = new_key_line("old"), new_key_line("new")
ROW = uuid4()
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
ADDRESS = "alice@example.com"


def make_cipher(*lines: str, column: Column = EMAIL) -> ColumnCipher:
    """Return the cipher of a column with these key lines."""
    return ColumnCipher(Keyring.parse("\n".join(lines)), column)


CIPHER = make_cipher(NEW, OLD)


@given(st.text(), st.uuids())
def test_a_value_is_decrypted_unchanged(text: str, row: UUID) -> None:
    """Every text, including the empty text, is decrypted unchanged, and its stored form is ASCII."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    stored = CIPHER.encrypt(row, text)
    assert CIPHER.decrypt(row, stored) == text
    assert stored.startswith("v1.new.")
    assert stored.isascii()
    assert "@" not in stored


def test_equal_values_have_different_ciphertexts() -> None:
    """The same address gets a new ciphertext each time, so equal values cannot be recognised."""
    assert len({CIPHER.encrypt(ROW, ADDRESS) for _ in range(100)}) == 100


def test_every_changed_character_is_detected() -> None:
    """If any character of the stored value is replaced, removed or added, decryption fails."""
    stored = CIPHER.encrypt(ROW, ADDRESS)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n@"
    for place, was in enumerate(stored):
        for other in alphabet.replace(was, ""):
            with pytest.raises(Undecipherable):
                CIPHER.decrypt(ROW, stored[:place] + other + stored[place + 1 :])
    for other in (
        stored[:-1],
        stored + "A",
        stored + "=",
        stored + "\n",
        stored[:-8],
        "",
        "v1.new.",
        "v1.new",
    ):
        with pytest.raises(Undecipherable):
            CIPHER.decrypt(ROW, other)


@given(st.binary())
def test_foreign_bytes_are_not_decrypted(data: bytes) -> None:
    """Any other content of the column raises `Undecipherable`, and no other error."""
    with pytest.raises(Undecipherable):
        CIPHER.decrypt(ROW, f"v1.new.{base64.urlsafe_b64encode(data).decode().rstrip('=')}")
    with pytest.raises(Undecipherable):
        CIPHER.decrypt(ROW, data.decode("latin-1"))


def test_a_value_belongs_to_its_row_and_column() -> None:
    """A stored value that is copied to another row, column or table cannot be decrypted there."""
    stored = CIPHER.encrypt(ROW, ADDRESS)
    with pytest.raises(Undecipherable, match="moved from another row"):
        CIPHER.decrypt(uuid4(), stored)
    for other in (EMAIL._replace(name="phone"), EMAIL._replace(table="players")):
        with pytest.raises(Undecipherable):
            make_cipher(NEW, column=other).decrypt(ROW, stored)
        assert make_cipher(NEW, column=other).index(ADDRESS) != CIPHER.index(ADDRESS)


def test_a_missing_key_is_named() -> None:
    """The error names a missing key id, and a different key with the same id does not decrypt."""
    stored = make_cipher(OLD).encrypt(ROW, ADDRESS)
    assert CIPHER.decrypt(ROW, stored) == ADDRESS
    with pytest.raises(Undecipherable, match="ENCRYPTION_KEYS has no key 'old'"):
        make_cipher(NEW).decrypt(ROW, stored)
    with pytest.raises(Undecipherable, match="encrypted with another key than 'old'"):
        make_cipher(new_key_line("old")).decrypt(ROW, stored)
    assert find_key_id(stored) == "old"
    assert find_key_id(ADDRESS) is None


def test_the_index_finds_equal_addresses_under_every_key() -> None:
    """The index ignores case, outer spaces and Unicode composition; another key gives another index."""
    same = ("ALICE@Example.com", " alice@example.com ", "Alice@EXAMPLE.COM")
    assert {CIPHER.index(text) for text in same} == {CIPHER.index(ADDRESS)}
    assert CIPHER.index("zoe\u0301@example.com") == CIPHER.index("ZO\u00c9@example.com")
    assert CIPHER.index("straße@example.com") == CIPHER.index("STRASSE@example.com")
    assert CIPHER.index("bob@example.com") != CIPHER.index(ADDRESS)
    assert CIPHER.list_indexes(ADDRESS) == [CIPHER.index(ADDRESS), make_cipher(OLD).index(ADDRESS)]
    assert make_cipher(new_key_line("new")).index(ADDRESS) != CIPHER.index(ADDRESS)


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    """A normalised address is unchanged by normalising, so an address copied from a page is found."""
    assert normalise_email(normalise_email(text)) == normalise_email(text)


def test_without_a_key_nothing_is_encrypted() -> None:
    """Without keys, encryption raises an error that names ENCRYPTION_KEYS and the command that makes one."""
    cipher = ColumnCipher(Keyring.parse(None), EMAIL)
    with pytest.raises(EncryptionKeyMissing, match=r"ENCRYPTION_KEYS is not set; `make up` creates"):
        cipher.encrypt(ROW, ADDRESS)
    for call in (cipher.index, cipher.list_indexes):
        with pytest.raises(EncryptionKeyMissing):
            call(ADDRESS)
    assert issubclass(EncryptionKeyMissing, SettingsError)


OTHER_SECRET = base64.b64encode(bytes(range(32, 64))).decode()
SECRET = base64.b64encode(bytes(range(32))).decode()  # not random, because the test ids contain it
SHORT = base64.b64encode(b"sixteen bytes 16").decode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no key"),
        (" \n,\n", "no key"),
        (SECRET, "key 1 does not begin with an id"),
        (f"new:{SECRET}\n:{SECRET}", "key 2 does not begin with an id"),
        (f"{SECRET}:k", "key 1 does not begin with an id"),
        (f"{'k' * 33}:{SECRET}", "key 1 does not begin with an id"),
        (f"a.b:{SECRET}", "key 1 does not begin with an id"),
        (f"k:{SHORT}", "the key 'k' has 16 bytes instead of 32"),
        ("k:", "the key 'k' has 0 bytes instead of 32"),
        (f"k:{SECRET}{SECRET}", "the key 'k' is not base64"),
        (f"k:{SECRET[:-1]}", "the key 'k' is not base64"),
        (f"k:{SECRET[:-4]}é", "the key 'k' is not base64"),
        (f"k:{SECRET}\nk:{OTHER_SECRET}", "two keys have the same id"),
        (f"k:{SECRET}\nl:{SECRET}", "two keys have the same value"),
    ],
)
def test_wrong_keys_are_refused_and_not_shown(text: str, message: str) -> None:
    """The error for invalid keys names a key by its id or its position, and shows no secret."""
    with pytest.raises(EncryptionKeysError, match=message) as caught:
        Keyring.parse(text)
    assert SECRET[:8] not in str(caught.value)
    assert SHORT[:8] not in str(caught.value)


def test_keys_may_be_on_lines_or_between_commas() -> None:
    """Keys are separated by lines or commas, in both base64 alphabets; the first key encrypts."""
    odd = base64.b64encode(b"\xff" * 32).decode()
    keyring = Keyring.parse(f"\n a:{odd} \r\n,b:{SECRET},\nc:{odd.replace('/', '_').replace('8=', '4=')}\n")
    assert [key.id for key in keyring.keys] == ["a", "b", "c"]
    assert keyring.current.id == "a"
    assert "255" not in repr(keyring.keys)
    assert "\\x" not in repr(keyring.keys)


def make_stored(email: str | None) -> StoredUser:
    """Return a stored user with this value in the column `email`."""
    return StoredUser(ROW, "alice", None, email, None, freeze({}), NOON, NOON)


def test_an_unreadable_address_is_replaced_by_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    """An address that cannot be decrypted is replaced by the reason, which is logged once."""
    stored = [make_stored(make_cipher(line).encrypt(ROW, ADDRESS)) for line in (OLD, NEW, OLD)]
    emails = UserEmails(Keyring.parse(NEW))
    with caplog.at_level(logging.DEBUG):
        found = [user.email for user in emails.decrypt_all([*stored, make_stored(None)])]
    assert found == ["(unreadable: ENCRYPTION_KEYS has no key 'old')", ADDRESS, found[0], None]
    [record] = caplog.records
    assert str(ROW) in record.getMessage()
    assert "no key 'old'" in record.getMessage()


def test_a_repr_of_a_user_has_no_address() -> None:
    """The repr of a user shows only whether there is an address, because logs contain reprs."""
    user = UserEmails(Keyring()).decrypt(make_stored(None))
    assert repr(user).startswith(f"User(id={ROW!r}, username='alice', name=None, email=None, last_active=")
    shown = repr(User(ROW, "alice", None, ADDRESS, None, freeze({}), NOON, NOON))
    assert "email='***'" in shown
    assert "example" not in shown
