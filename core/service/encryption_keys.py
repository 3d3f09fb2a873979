"""Encryption keys of e-mail addresses: lists the keys, and re-encrypts addresses with the current key."""

from collections.abc import Sequence
from uuid import UUID

from core.encryption import Undecipherable
from core.queries import users as queries
from core.queries.users import EmailChange
from core.records import EncryptionKeyUse, Reencryption
from core.service.argument_checks import check_id, check_limit
from core.service.users import user_key
from core.service.writes import ServiceBase


class EncryptionKeys(ServiceBase):
    """Calls of the service about the encryption keys of e-mail addresses."""

    def list_encryption_keys(self) -> tuple[EncryptionKeyUse, ...]:
        """Return every key that ENCRYPTION_KEYS lists or that encrypts a stored address, uncached.

        The current key is the first. Reads the whole table of users.
        """
        used = self._read_current(queries.count_keys)
        known = [key.id for key in self._emails.keyring.keys]
        return tuple(
            EncryptionKeyUse(key_id, used.get(key_id, 0), key_id in known, key_id in known[:1])
            for key_id in dict.fromkeys([*known, *sorted(used)])
        )

    def reencrypt_users(self, *, limit: int = 500, after: UUID | str | None = None) -> Reencryption:
        """Re-encrypt up to `limit` e-mail addresses that are not encrypted with the current key.

        Runs in one transaction, and changes no other data of the users. If another writer changes
        an address meanwhile, the new address is kept. `after` is `last` of the previous result. Raises
        `InvalidInput` and `EncryptionKeyMissing`.
        """
        count, start = check_limit(limit), None if after is None else check_id(after, "after")
        current = self._emails.cipher.current_id
        found = self._read_current(queries.list_other_keys, current, start, count)
        changes, unreadable = self._reencrypt(found)
        changed: set[UUID] = set()

        def write() -> None:
            with self._write() as (database, noted):
                changed.update(queries.replace_emails(database, changes))
                noted.invalidate(*map(user_key, changed))

        if changes:
            self._retry_conflicts(write)
        last = found[-1][0] if len(found) == count else None
        return Reencryption(len(changed), tuple(unreadable), last)

    def _reencrypt(self, found: Sequence[tuple[UUID, str]]) -> tuple[list[EmailChange], list[UUID]]:
        """Return the new ciphertexts to store, and the users whose address cannot be decrypted."""
        changes, unreadable = [], []
        cipher = self._emails.cipher
        for user_id, stored in found:
            try:
                email = cipher.decrypt(user_id, stored)
            except Undecipherable:
                unreadable.append(user_id)
            else:
                changes.append(
                    EmailChange(user_id, stored, cipher.encrypt(user_id, email), cipher.index(email))
                )
        return changes, unreadable
