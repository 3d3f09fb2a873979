"""`echo-markets rotate-keys`: encrypts every stored e-mail address with the current key.

Calls the service for one batch of users after the other, then reports the totals. Each stored address
contains the id of its key. So a run after an interruption skips the addresses that have the current key.
"""

from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from core.records import EncryptionKeyUse
from core.service import EnhancedDatabaseService

MAX_NAMED = 5


class KeyRotation(NamedTuple):
    """The result of a key rotation.

    `changed` is the number of addresses that were encrypted again. `unreadable` has the ids of users with an
    address that cannot be decrypted. `keys` has each key with the number of addresses that it encrypts now.
    """

    changed: int
    unreadable: tuple[UUID, ...]
    keys: tuple[EncryptionKeyUse, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every address has the current key."""
        return all(key.is_current or not key.emails for key in self.keys)

    def describe(self) -> list[str]:
        """Return the lines to print: the totals, and for each key the next step of the operator."""
        [current] = [key.id for key in self.keys if key.is_current]
        lines = [f"encrypted {self.changed:,} e-mail addresses with the key {current}"]
        for key in self.keys:
            if key.emails and not key.is_known:
                lines.append(
                    f"{key.emails:,} addresses have the key {key.id}, which ENCRYPTION_KEYS lacks;"
                    " add its line and repeat this"
                )
            elif key.emails and not key.is_current:
                lines.append(f"{key.emails:,} addresses still have the key {key.id}; keep its line")
            elif not key.is_current:
                lines.append(
                    f"the key {key.id} is no longer used; remove its line once every process encrypts"
                    f" with {current}"
                )
        if self.unreadable:
            named = ", ".join(map(str, self.unreadable[:MAX_NAMED]))
            more = ", ..." if len(self.unreadable) > MAX_NAMED else ""
            lines.append(f"{len(self.unreadable):,} addresses cannot be decrypted, of users {named}{more}")
        return lines


def rotate_keys(
    service: EnhancedDatabaseService, *, progress: Callable[[str, int, int], None]
) -> KeyRotation:
    """Encrypt every address with the current key, in batches, and return the result.

    Addresses that already have the current key are not changed. `progress` is called with a label, the number
    of finished addresses, and the number of all addresses to change. Raises `EncryptionKeyMissing`.
    """
    total = sum(key.emails for key in service.list_encryption_keys() if not key.is_current)
    changed = 0
    unreadable: list[UUID] = []
    batch = service.reencrypt_users()
    while True:
        changed += batch.changed
        unreadable += batch.unreadable
        if total:
            progress("encrypting", min(changed + len(unreadable), total), total)
        if batch.last is None:
            return KeyRotation(changed, tuple(unreadable), service.list_encryption_keys())
        batch = service.reencrypt_users(after=batch.last)
