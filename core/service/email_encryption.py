"""Encrypts users' e-mail addresses before a write and decrypts them after a read.

Callers of the service pass and get plaintext addresses. Tables and caches contain only ciphertext.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from core.encryption import EMAIL, ColumnCipher, Keyring, Undecipherable, find_key_id
from core.queries.loads import StoredEmail, UserRow
from core.records import User
from core.records.game import StoredUser

logger = logging.getLogger(__name__)


class UserEmails:
    """Encrypts and decrypts the e-mail addresses of users; thread safe."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring
        self.cipher = ColumnCipher(keyring, EMAIL)
        self._logged: set[str] = set()

    def encrypt_changes(self, user_id: UUID, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the column values to store: those in `values`, with the e-mail address (if given) encrypted.

        Adds the value of the column `email_index`, by which an address is found. Raises
        `EncryptionKeyMissing`.
        """
        if "email" not in values:
            return dict(values)
        email = values["email"]
        if email is None:
            return {**values, "email_index": None}
        encrypted = self.cipher.encrypt(user_id, email)
        return {**values, "email": encrypted, "email_index": self.cipher.index(email)}

    def encrypt_rows(self, users: Iterable[User], stored: Mapping[str, StoredEmail]) -> list[UserRow]:
        """Return the rows to write for users; `stored` has the addresses of existing users by username.

        An address that is already stored, encrypted with the current key, keeps its ciphertext. A repeated
        load therefore changes nothing. Raises `EncryptionKeyMissing`.
        """
        return [self._encrypt_row(user, stored.get(user.username)) for user in users]

    def _encrypt_row(self, user: User, stored: StoredEmail | None) -> UserRow:
        # Encrypt with the id of the stored user, if there is one: an existing user keeps its id, and a
        # ciphertext can be decrypted only with the id of its user.
        user_id = user.id if stored is None else stored.user_id
        email = index = None
        if user.email is not None:
            if stored is not None and self._is_same(stored, user.email):
                email, index = stored.email, stored.email_index
            else:
                email, index = self.cipher.encrypt(user_id, user.email), self.cipher.index(user.email)
        return UserRow(
            id=user_id,
            username=user.username,
            name=user.name,
            email=email,
            last_active=user.last_active,
            preferences=user.preferences,
            created_at=user.created_at,
            updated_at=user.updated_at,
            email_index=index,
        )

    def _is_same(self, stored: StoredEmail, email: str) -> bool:
        """Say whether the stored address equals `email` and is encrypted with the current key."""
        if stored.email is None or find_key_id(stored.email) != self.cipher.current_id:
            return False
        try:
            return self.cipher.decrypt(stored.user_id, stored.email) == email
        except Undecipherable:
            return False

    def decrypt(self, stored: StoredUser) -> User:
        """Return the user with a plaintext address, or with `(unreadable: REASON)` if decryption fails."""
        email = stored.email
        return User(
            stored.id,
            stored.username,
            stored.name,
            None if email is None else self._decrypt(stored.id, email),
            stored.last_active,
            stored.preferences,
            stored.created_at,
            stored.updated_at,
        )

    def decrypt_all(self, stored: Sequence[StoredUser]) -> tuple[User, ...]:
        """Return the users, each as `decrypt` returns it."""
        return tuple(map(self.decrypt, stored))

    def _decrypt(self, user_id: UUID, email: str) -> str:
        try:
            return self.cipher.decrypt(user_id, email)
        except Undecipherable as reason:
            if str(reason) not in self._logged:
                self._logged.add(str(reason))
                logger.warning(
                    "the e-mail address of the user %s cannot be read: %s; later ones are not logged",
                    user_id,
                    reason,
                )
            return f"(unreadable: {reason})"
