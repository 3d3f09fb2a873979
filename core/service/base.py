"""What every part of the service is built from.

Owns the order of a write: validate, transaction, fence, commit, invalidate. Holds the
database, the cache and the clock; no statement and no key name.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Concatenate, ParamSpec, TypeVar
from uuid import UUID

import uuid_utils.compat as uuid_utils

from core.cache import NO_FENCE, Cache, CacheKind, Fence
from core.database import Database
from core.errors import DatabaseError, QueryTimeout, TransactionConflict
from core.forks import call_in_forked_child
from core.metrics import Metrics
from core.service.fence_ahead import FenceAhead

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Each costs the server's deadlock_timeout, a second by default, and there is seldom a second one.
CONFLICT_ATTEMPTS = 3
# The server's own refusal, or that it gave up: nothing was committed.
ANSWERS = (DatabaseError, QueryTimeout)


class Changes:
    """What a transaction changed, by the keys that have to be dropped after its commit."""

    def __init__(self, keys: Iterable[tuple[CacheKind, str]] = ()) -> None:
        self.keys = list(keys)

    def invalidate(self, kind: CacheKind, *keys: str) -> None:
        """Note keys to drop."""
        self.keys.extend((kind, key) for key in keys)


class _Scope(threading.local):
    """The outermost transaction of each thread; None outside of one."""

    changes: Changes | None = None


class ServiceBase:
    """The parts that the areas of the service share."""

    metrics: Metrics
    """Set by the service that the areas make up."""

    def __init__(self, database: Database, cache: Cache, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._cache = cache
        self._clock = clock
        self._scope = _Scope()
        call_in_forked_child(self._forget_scope)

    def _forget_scope(self) -> None:
        self._scope = _Scope()

    def _read(
        self,
        operation: str,
        query: Callable[Concatenate[Database, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return self._database.read(operation, query, *args, **kwargs)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Group the calls of this thread: all are committed at the end, or none.

        Inside, this thread sees its own writes and nobody else does. An error that leaves the
        block undoes everything; one that is caught inside undoes only the call that raised it.
        Transactions nest; the outermost commits. Holds one connection until it ends. A child that
        is forked inside takes no part in it: its calls are on their own. Raises
        `DatabaseUnavailable` when the connection is lost, also when the commit happened all
        the same and only its answer was lost, and a `DatabaseError` from a call that is part of a
        deadlock: repeat the whole block then, because what it holds is what others wait for.
        """
        with self._changing("transaction"):
            yield

    def _change_alone(
        self,
        operation: str,
        keys: Sequence[tuple[CacheKind, str]],
        query: Callable[Concatenate[Database, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run one statement, which outdates just these keys, in a transaction.

        Outside of any other the statement is a transaction by itself, which saves the round trip
        of a COMMIT; the fence is there before it instead. An error of the statement itself means
        that nothing was committed.
        """
        if self._scope.changes is not None:
            with self._changing(operation) as (database, changes):
                changes.keys.extend(keys)
                return query(database, *args, **kwargs)
        fence = NO_FENCE
        is_fenced = False
        try:
            with self._database.session(operation) as database:
                # after the checkout, which may take longer than a fence lasts
                is_fenced = True
                fence = self._cache.fence(keys)
                result = query(database, *args, **kwargs)
        except BaseException as error:
            if is_fenced:
                self._cache.invalidate(keys, fence, is_certain=isinstance(error, ANSWERS))
            raise
        self._cache.invalidate(keys, fence)
        return result

    def _repeat(self, write: Callable[[], T], *conflicts: type[DatabaseError]) -> T:
        """Run a unit of work, and again when the server undid it in favour of another writer.

        Not inside a transaction, which holds what the other waits for. `conflicts` are further
        errors that a second attempt does not meet, in a transaction or not.
        """
        repeated: tuple[type[DatabaseError], ...] = conflicts
        if self._scope.changes is None:
            repeated += (TransactionConflict,)
        for _ in range(CONFLICT_ATTEMPTS - 1):
            try:
                return write()
            except DatabaseError as error:
                if not isinstance(error, repeated):
                    raise
                logger.info("once more: %s", error)
        return write()

    @contextmanager
    def _changing(
        self, operation: str, known: Sequence[tuple[CacheKind, str]] = ()
    ) -> Iterator[tuple[Database, Changes]]:
        """Run the block in a transaction and invalidate what it notes once all is committed.

        Keys that are `known` beforehand are noted, and fenced while the statements run.
        """
        outer = self._scope.changes
        if outer is None:
            with self._outermost(operation, known) as changing:
                yield changing
            return
        inner = self._scope.changes = Changes(known)
        try:
            with self._database.transaction_of(operation) as database:
                yield database, inner
        finally:
            # not in a child that was forked inside: there is no transaction around it
            if self._scope.changes is inner:
                self._scope.changes = outer
        # not when rolled back alone: then it changed nothing that the outer one commits
        outer.keys.extend(inner.keys)

    @contextmanager
    def _outermost(
        self, operation: str, known: Sequence[tuple[CacheKind, str]]
    ) -> Iterator[tuple[Database, Changes]]:
        """Commit between a fence and an invalidation.

        An error before the commit drops nothing but what was fenced ahead. When the connection is
        lost, the commit may have happened without an answer, or may happen yet: the keys are
        dropped then too, and stay fenced, because who reads before it would fill what it makes stale.
        """
        changes = self._scope.changes = Changes(known)
        ahead = FenceAhead(self._cache, known)
        fence = NO_FENCE
        is_committing = False
        try:
            with self._database.transaction_of(operation) as database:
                ahead.start()
                yield database, changes
                database.check_transaction()
                is_committing = True
                fence = self._cache.fence(ahead.finish(changes.keys), ahead.token)
        except BaseException as error:
            if is_committing:
                self._cache.invalidate(changes.keys, fence, is_certain=isinstance(error, ANSWERS))
            else:
                self._cache.invalidate(ahead.give_up(), Fence(ahead.token))
            raise
        finally:
            self._scope.changes = None
        self._cache.invalidate(changes.keys, fence)


def new_id() -> UUID:
    """Return a time-ordered UUID (version 7, RFC 9562), so that inserts stay local."""
    return uuid_utils.uuid7()


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
