"""Tries a write again that the server undid because of a conflict with another writer."""

import logging
from collections.abc import Callable
from typing import TypeVar

from core.database import Database
from core.errors import DatabaseError, TransactionConflict

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Each costs the server's deadlock_timeout, a second by default; a second conflict in a row is rare.
CONFLICT_ATTEMPTS = 3


def retry_conflicts(database: Database, write: Callable[[], T], *conflicts: type[DatabaseError]) -> T:
    """Run a write, up to three times while the server undoes it because of a conflict.

    A deadlock or a serialization failure is one, and each of `conflicts`. Inside `transaction()` only the
    `conflicts` are: other writers wait for the rows that the transaction has locked.
    """
    retried: tuple[type[DatabaseError], ...] = conflicts
    if not database.in_transaction():
        retried += (TransactionConflict,)
    for _ in range(CONFLICT_ATTEMPTS - 1):
        try:
            return write()
        except retried as error:
            logger.info("repeating a write after a conflict: %s", error)
    return write()
