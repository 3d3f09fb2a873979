"""What every part of the service is built from.

Owns the order of a write: validate, transaction, commit, invalidate. Holds the
database, the cache and the clock; no statement and no key name.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Concatenate, ParamSpec, TypeVar
from uuid import UUID

import uuid_utils.compat as uuid_utils

from core.cache import Cache, CacheKind
from core.database import Database
from core.errors import DatabaseUnavailable

P = ParamSpec("P")
T = TypeVar("T")


class Changes:
    """What a write changed, by the keys that have to be dropped after its commit."""

    def __init__(self) -> None:
        self.keys: list[tuple[CacheKind, str]] = []

    def invalidate(self, kind: CacheKind, *keys: str) -> None:
        """Note keys to drop."""
        self.keys.extend((kind, key) for key in keys)


class ServiceBase:
    """The parts that the areas of the service share."""

    def __init__(self, database: Database, cache: Cache, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._cache = cache
        self._clock = clock

    def _read(
        self,
        operation: str,
        query: Callable[Concatenate[Database, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return self._database.read(operation, query, *args, **kwargs)

    @contextmanager
    def _changing(self, operation: str) -> Iterator[tuple[Database, Changes]]:
        """Run the block in a transaction and invalidate what it notes once it is committed.

        An error before the commit invalidates nothing. When the connection is lost, the
        commit may have happened without an answer, so the keys are dropped then too.
        """
        changes = Changes()
        try:
            with self._database.transaction_of(operation) as database:
                yield database, changes
        except DatabaseUnavailable:
            self._cache.invalidate(changes.keys)
            raise
        self._cache.invalidate(changes.keys)


def new_id() -> UUID:
    """Return a time-ordered UUID (version 7, RFC 9562), so that inserts stay local."""
    return uuid_utils.uuid7()


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
