"""Encrypt the e-mail addresses of users, and index them for equality.

`db.emails` is the cipher of the column, with the keys of ENCRYPTION_KEYS. When the table contains no address,
no key is needed.
"""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from core.encryption import Undecipherable
from core.errors import EncryptionKeyMissing

# The constraint at the time of this migration; core/models.py has the current one.
CONDITION = (
    "(email IS NULL) = (email_index IS NULL)"
    " AND email ~ '^v1[.][A-Za-z0-9_-]+[.][A-Za-z0-9_-]+$'"
    " AND email_index ~ '^[A-Za-z0-9_-]+[.][A-Za-z0-9_-]+$'"
    " AND split_part(email, '.', 2) = split_part(email_index, '.', 1)"
)
BATCH_ROWS = 5_000
BATCH = """
    SELECT id, email FROM users WHERE email IS NOT NULL AND (%s::uuid IS NULL OR id > %s::uuid)
    ORDER BY id LIMIT %s"""
WRITE = """
    UPDATE users SET email = changed.email, email_index = changed.email_index
    FROM unnest(%s::uuid[], %s::text[], %s::text[]) AS changed (id, email, email_index)
    WHERE users.id = changed.id"""
# Rewrites the table, because dead rows in the old file contain the addresses in clear text. This also removes
# the statistics of the column, which contain a sample of the addresses.
REWRITE = "ALTER TABLE users ALTER COLUMN email TYPE text USING email || ''"


def up(_migrator: Any, db: Any) -> None:
    """Encrypt every address, and add a constraint that refuses unencrypted ones."""
    db.execute_sql("ALTER TABLE users ADD COLUMN email_index text")
    try:
        changed = convert(
            db, lambda user_id, email: (db.emails.encrypt(user_id, email), db.emails.index(email))
        )
    except EncryptionKeyMissing as error:
        raise RuntimeError(f"users have e-mail addresses: {error}") from error
    if changed:
        db.execute_sql(REWRITE)
    db.execute_sql(f"ALTER TABLE users ADD CONSTRAINT users_email_encrypted CHECK ({CONDITION})")
    db.execute_sql("CREATE INDEX users_email_index ON users (email_index)")


def down(_migrator: Any, db: Any) -> None:
    """Store the addresses in clear text again."""
    db.execute_sql("ALTER TABLE users DROP CONSTRAINT users_email_encrypted")
    convert(db, lambda user_id, email: (decrypt(db, user_id, email), None))
    db.execute_sql("ALTER TABLE users DROP COLUMN email_index")


def convert(db: Any, change: Callable[[UUID, str], tuple[str, str | None]]) -> int:
    """Replace every address by the result of `change`, in batches, and return the number of addresses."""
    after, count = None, 0
    while rows := db.execute_sql(BATCH, (after, after, BATCH_ROWS)).fetchall():
        changed = [(user_id, *change(user_id, email)) for user_id, email in rows]
        db.execute_sql(WRITE, tuple(map(list, zip(*changed, strict=True))))
        after, count = rows[-1][0], count + len(rows)
    return count


def decrypt(db: Any, user_id: UUID, email: str) -> str:
    """Return an address in clear text."""
    try:
        text: str = db.emails.decrypt(user_id, email)
    except Undecipherable as error:
        raise RuntimeError(
            f"the e-mail address of the user {user_id} cannot be decrypted: {error};"
            " add its key to ENCRYPTION_KEYS, or set the address to NULL"
        ) from error
    return text
