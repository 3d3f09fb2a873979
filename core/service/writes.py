"""The base class of the service's calls: runs their reads, and their writes in fixed steps.

Every write has these steps:

1. Validate: the call checks its arguments.
2. Transaction: the statements run, and the call adds the cache keys of the changed rows to `Changes`.
3. Fence: from now on no reader can store values from before the write under these keys.
4. Commit.
5. Invalidate: the keys are dropped and the fences removed. When the outcome of the COMMIT is unknown, the
   keys are dropped as well, but the fences stay until they expire, because the COMMIT may still happen.

`_write` runs these steps for several statements. `_write_one` runs a single statement in autocommit mode: its
keys are known in advance, and are fenced before the statement. `_write(keys)` with many keys fences them in a
thread while the statements run. Inside `transaction()` a write is a savepoint, and steps 3 to 5 happen when
the outermost transaction ends.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from functools import cache
from types import CodeType, FrameType
from typing import Concatenate, ParamSpec, TypeVar
from uuid import UUID

import uuid_utils.compat as uuid_utils

from core.cache import NO_FENCE, Cache, Fence
from core.database import Database
from core.database.holder import Holder
from core.database.identity import find_identity
from core.database.read_consistency import reads_on_primary
from core.errors import DatabaseError, NotSupported, QueryTimeout, TransactionConflict
from core.metrics import Metrics
from core.queries.rows import is_distributed
from core.service.email_encryption import UserEmails
from core.service.fence_ahead import FenceAhead

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Errors after which nothing was committed: the server has refused or cancelled the statement.
OUTCOME_KNOWN = (DatabaseError, QueryTimeout)
# Maximum number of attempts of a write, the first one included. Two conflicts in a row are rare, and each
# deadlock makes the caller wait for the server's deadlock_timeout (1 s by default).
CONFLICT_ATTEMPTS = 3
_PACKAGE = __name__.rpartition(".")[0]


class Changes:
    """The cache keys to invalidate once a transaction has committed.

    The keys `known` are given before the statements run. If they are many, a thread sets the fences on them
    while the statements run.
    """

    def __init__(self, known: Sequence[str] = ()) -> None:
        self._known = known
        self.keys: list[str] = []

    def invalidate(self, *keys: str) -> None:
        """Add keys to invalidate after the commit."""
        self.keys.extend(keys)

    def list_all(self) -> list[str]:
        """Return every key."""
        return [*self._known, *self.keys]


class ServiceBase:
    """The base class of all classes with calls of the service."""

    metrics: Metrics

    def __init__(
        self,
        database: Database,
        cache: Cache,
        *,
        emails: UserEmails,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._cache = cache
        self._emails = emails
        self._clock = clock
        self.metrics = metrics

    def _read(self, query: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query and return its result.

        Metrics and statements are labelled with the operation: the name of the public method that calls
        `_read`.
        """
        return self._database.read(find_operation(sys._getframe(1)), query, *args, **kwargs)  # noqa: SLF001  # documented

    def _read_current(
        self, query: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a query like `_read`, but never on a replica, which could lag behind."""
        with reads_on_primary():
            return self._database.read(find_operation(sys._getframe(1)), query, *args, **kwargs)  # noqa: SLF001  # documented

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Group the calls of a `with` block: all of them are committed at its end, or none.

        Before the commit, only the calls in the block see its writes. An error that leaves the block rolls
        back everything. An error that is caught inside the block rolls back only the call that raised it.
        Transactions nest; the outermost commits. The block holds one connection until it ends.

        The block belongs to the thread that enters it. In an event loop it belongs to one task of the thread,
        and in a thread pool to one function that the thread runs. Other threads and tasks have their own
        transactions; if they run in the block's context, as with `asyncio.to_thread`, their calls raise
        `TransactionMisused`. A block is rolled back if it awaits, if another thread or task leaves it, or if
        its own thread or task has ended. Later calls in the block, and its end, then raise
        `TransactionMisused`: run the whole block in one function with `asyncio.to_thread`. A process that is
        forked inside the block is not part of it: the calls of that process are independent.

        Raises `DatabaseUnavailable` if the connection is lost, even if the commit happened and only its reply
        was lost. A call that is part of a deadlock raises a `DatabaseError`. Repeat the whole block then,
        because other writers wait for the rows that the block has locked.
        """
        holder = Holder.of_block(sys._getframe())  # noqa: SLF001  # documented
        with self._write_as("transaction", holder=holder):
            yield

    # -- writes ---------------------------------------------------------------------------

    def _write(self, keys: Sequence[str] = ()) -> AbstractContextManager[tuple[Database, Changes]]:
        """Run a `with` block as one write.

        Metrics and statements are labelled with the operation: the name of the public method that calls
        `_write`. `keys` are cache keys to invalidate. The block gets the database, and the `Changes` to which
        it can add more keys.
        """
        return self._write_as(find_operation(sys._getframe(1)), keys)  # noqa: SLF001  # documented

    def _write_one(
        self,
        keys: Sequence[str],
        query: Callable[Concatenate[Database, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a write that is one statement, and return its result.

        `keys` are all cache keys to invalidate. Outside of `transaction()` the statement runs in autocommit
        mode, which saves the round trip of a COMMIT.
        """
        operation = find_operation(sys._getframe(1))  # noqa: SLF001  # documented
        if self._database.in_transaction():
            with self._write_as(operation, keys) as (database, _):
                return query(database, *args, **kwargs)
        fence = NO_FENCE
        is_fenced = False
        try:
            with self._database.session(operation) as database:
                _check_actor(database)
                # Fence the cache keys after the connection is checked out: a fence could expire while the
                # call waits for a connection.
                is_fenced = True
                fence = self._cache.fence(keys)
                result = query(database, *args, **kwargs)
                lsn = database.find_lsn()
        except BaseException as error:
            if is_fenced:
                self._cache.invalidate(keys, fence, outcome_known=isinstance(error, OUTCOME_KNOWN))
            raise
        self._cache.invalidate(keys, fence, lsn=lsn)
        return result

    def _write_as(
        self, operation: str, keys: Sequence[str] = (), *, holder: Holder | None = None
    ) -> AbstractContextManager[tuple[Database, Changes]]:
        """Run a `with` block as one write, like `_write`, under the name `operation`.

        `holder` is the thread, task or function whose calls join the write; None means the current one.
        `transaction()` sets it to the one that runs its block, which is code outside of the service.
        """
        unit = self._database.find_unit()
        if unit is not None and unit.transactions:
            return self._write_in_savepoint(operation, keys)
        return self._write_in_transaction(operation, keys, holder)

    @contextmanager
    def _write_in_savepoint(self, operation: str, keys: Sequence[str]) -> Iterator[tuple[Database, Changes]]:
        unit = self._database.get_unit()
        outer: Changes = unit.changes
        inner = unit.changes = Changes(keys)
        try:
            with self._database.transaction_of(operation) as database:
                yield database, inner
        finally:
            unit.changes = outer
        # Not reached after an error: the savepoint was rolled back, so its keys need no invalidation.
        outer.keys.extend(inner.list_all())

    @contextmanager
    def _write_in_transaction(
        self, operation: str, keys: Sequence[str], holder: Holder | None
    ) -> Iterator[tuple[Database, Changes]]:
        changes = Changes(keys)
        ahead = FenceAhead(self._cache, keys)
        fence = NO_FENCE
        is_committing = False
        try:
            with self._database.transaction_of(operation, holder) as database:
                unit = database.get_unit()
                _check_actor(database)
                unit.changes = changes
                ahead.start()
                yield database, changes
                unit.check_end()
                is_committing = True
                fence = self._cache.fence(ahead.finish(changes.keys), ahead.token)
        except BaseException as error:
            if is_committing:
                self._cache.invalidate(
                    changes.list_all(), fence, outcome_known=isinstance(error, OUTCOME_KNOWN)
                )
            else:
                self._cache.invalidate(ahead.cancel(), Fence(ahead.token))
            raise
        self._cache.invalidate(changes.list_all(), fence, lsn=unit.lsn)

    def _retry_conflicts(self, write: Callable[[], T], *conflicts: type[DatabaseError]) -> T:
        """Run a write and return its result. After a conflict, run it again: three attempts in all.

        A conflict is a deadlock, a serialization failure, or an error of a type in `conflicts`. Inside
        `transaction()` only the types in `conflicts` are retried: after a deadlock, the caller has to repeat
        the whole transaction, because other writers wait for the rows that it has locked.
        """
        retried: tuple[type[DatabaseError], ...] = conflicts
        if not self._database.in_transaction():
            retried += (TransactionConflict,)
        for _ in range(CONFLICT_ATTEMPTS - 1):
            try:
                return write()
            except retried as error:
                logger.info("repeating a write after a conflict: %s", error)
        return write()


def _check_actor(database: Database) -> None:
    """Raise `NotSupported` inside `acting_as` if the database cannot record who changes a row."""
    identity = find_identity()
    if identity is not None and identity.actor is not None and is_distributed(database):
        raise NotSupported(
            "tables distributed over a Citus cluster do not record who changes a row, so nothing was changed;"
            " make the change outside of acting_as(), and record it with audited() (docs/citus.md)"
        )


def find_operation(frame: FrameType) -> str:
    """Return the operation of a frame: the name of the service's public method that runs it.

    The operation labels metrics, logs and statements. A function inside a method counts as the method. Frames
    of other packages are skipped, such as those of the cache that calls a loader.
    """
    found: FrameType | None = frame
    while found is not None:
        if found.f_globals["__name__"].startswith(_PACKAGE):
            return _find_method(found.f_code)
        found = found.f_back
    raise TypeError(f"{frame.f_code.co_qualname} is not called by a method of the service")


@cache
def _find_method(code: CodeType) -> str:
    # co_qualname is Class.method, or Class.method.<locals>.function
    names = code.co_qualname.split(".")
    if len(names) < 2 or names[1].startswith("_"):
        raise TypeError(f"{code.co_qualname} is not a public method; pass the operation on from one")
    return names[1]


def new_id() -> UUID:
    """Return a time-ordered UUID (version 7, RFC 9562): inserts then reach adjacent pages of an index."""
    return uuid_utils.uuid7()


def format_width(width: timedelta) -> str:
    """Return a length of time as a string for a cache key. Different lengths give different strings."""
    return str(width.total_seconds()).removesuffix(".0")
