"""Retries a write that the server rolled back because of a conflict with another writer."""

import logging
from collections.abc import Callable
from typing import TypeVar

from core.database import Database
from core.errors import DatabaseError, TransactionConflict

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Each deadlock takes the server's deadlock_timeout (1 s by default); two conflicts in a row are rare.
CONFLICT_ATTEMPTS = 3


def retry_conflicts(database: Database, write: Callable[[], T], *conflicts: type[DatabaseError]) -> T:
    """Run a write and return its result; after a conflict, retry it (three attempts in all).

    A conflict is a deadlock, a serialization failure, or an error of a type in `conflicts`. Inside
    `transaction()` only the types in `conflicts` are retried, because other writers wait for the rows that
    the transaction has locked.
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
