"""What every part of the service is built from.

Owns the order of a write: validate, transaction, fence, commit, invalidate. Holds the
database, the cache and the clock; no statement and no key name.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Concatenate, ParamSpec, TypeVar
from uuid import UUID

import uuid_utils.compat as uuid_utils

from core.cache import NO_FENCE, Cache, Fence
from core.database import Database
from core.database.owner import Owner
from core.errors import DatabaseError, QueryTimeout, TransactionConflict
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
    """What a transaction changed, by the keys that have to be dropped after its commit.

    `known` are those from before it began, `keys` those that are noted on the way.
    """

    def __init__(self, known: Sequence[str] = ()) -> None:
        self._known = known
        self.keys: list[str] = []

    def invalidate(self, *keys: str) -> None:
        """Note keys to drop."""
        self.keys.extend(keys)

    def list_all(self) -> list[str]:
        """Return every key to drop."""
        return [*self._known, *self.keys]


class ServiceBase:
    """The parts that the areas of the service share."""

    metrics: Metrics
    """Set by the service that the areas make up."""

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
    def transaction(self) -> Iterator[None]:
        """Group the calls of the block: all are committed at the end, or none.

        Inside, these calls see their own writes and nobody else does. An error that leaves the
        block undoes everything; one that is caught inside undoes only the call that raised it.
        Transactions nest; the outermost commits. Holds one connection until it ends.

        The block belongs to the thread that enters it, and there to the asyncio task or to the
        function that a thread pool called. Other threads and tasks have transactions of their own;
        where they run in the block's context, as with `asyncio.to_thread`, their calls raise
        `TransactionMisused`. A block that awaits, is left by another thread or task, or stays open
        when its thread or task has ended is rolled back, and what is called in it or ends it then
        raises `TransactionMisused`: run the whole block in one function with `asyncio.to_thread`.
        A child that is forked inside takes no part in it: its calls are on their own.

        Raises `DatabaseUnavailable` when the connection is lost, also when the commit happened all
        the same and only its answer was lost, and a `DatabaseError` from a call that is part of a
        deadlock: repeat the whole block then, because what it holds is what others wait for.
        """
        owner = Owner.of_block(sys._getframe())  # noqa: SLF001  # CPython's, documented
        with self._changing("transaction", owner=owner):
            yield

    def _change_alone(
        self,
        operation: str,
        keys: Sequence[str],
        query: Callable[Concatenate[Database, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run one statement, which outdates just these keys, in a transaction.

        Outside of any other the statement is a transaction by itself, which saves the round trip
        of a COMMIT; the fence is there before it instead. An error of the statement itself means
        that nothing was committed.
        """
        if self._database.in_transaction():
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
                self._cache.invalidate(keys, fence, outcome_known=isinstance(error, ANSWERS))
            raise
        self._cache.invalidate(keys, fence)
        return result

    def _repeat(self, write: Callable[[], T], *conflicts: type[DatabaseError]) -> T:
        """Run a unit of work, and again when the server undid it in favour of another writer.

        Not inside a transaction, which holds what the other waits for. `conflicts` are further
        errors that a second attempt does not meet, in a transaction or not.
        """
        repeated: tuple[type[DatabaseError], ...] = conflicts
        if not self._database.in_transaction():
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
        self,
        operation: str,
        known: Sequence[str] = (),
        *,
        owner: Owner | None = None,
    ) -> Iterator[tuple[Database, Changes]]:
        """Run the block in a transaction and invalidate what it notes once all is committed.

        Keys that are `known` beforehand are noted, and fenced while the statements run. A
        transaction in which other code runs has an `owner`.
        """
        unit = self._database.find_unit()
        if unit is None or not unit.transactions:
            with self._outermost(operation, known, owner) as changing:
                yield changing
            return
        outer: Changes = unit.changes
        inner = unit.changes = Changes(known)
        try:
            with self._database.transaction_of(operation) as database:
                yield database, inner
        finally:
            unit.changes = outer
        # not when rolled back alone: then it changed nothing that the outer one commits
        outer.keys.extend(inner.list_all())

    @contextmanager
    def _outermost(
        self, operation: str, known: Sequence[str], owner: Owner | None
    ) -> Iterator[tuple[Database, Changes]]:
        """Commit between a fence and an invalidation.

        An error before the commit drops nothing but what was fenced ahead. When the connection is
        lost, the commit may have happened without an answer, or may happen yet: the keys are
        dropped then too, and stay fenced, because who reads before it would fill what it makes stale.
        """
        changes = Changes(known)
        ahead = FenceAhead(self._cache, known)
        fence = NO_FENCE
        is_committing = False
        try:
            with self._database.transaction_of(operation, owner) as database:
                unit = database.get_unit()
                unit.changes = changes
                ahead.start()
                yield database, changes
                unit.check_end()
                is_committing = True
                fence = self._cache.fence(ahead.finish(changes.keys), ahead.token)
        except BaseException as error:
            if is_committing:
                self._cache.invalidate(changes.list_all(), fence, outcome_known=isinstance(error, ANSWERS))
            else:
                self._cache.invalidate(ahead.give_up(), Fence(ahead.token))
            raise
        self._cache.invalidate(changes.list_all(), fence)


def new_id() -> UUID:
    """Return a time-ordered UUID (version 7, RFC 9562), so that inserts stay local."""
    return uuid_utils.uuid7()


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
