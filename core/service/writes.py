"""The base class of the service's areas: reads, the order of a write, and keyset pages.

A write has one order:

1. Validate: the area checks its arguments.
2. Transaction: the statements run, and note the cache keys of what they change.
3. Fence: from now on no reader can fill these keys with the values before the write.
4. Commit.
5. Invalidate: the keys are dropped and the fences removed. When the outcome of the COMMIT is unknown, the
   keys are dropped as well, but the fences stay until they expire, because the COMMIT may still happen.

`_write` runs it for several statements, and `_write_one` for a single statement that commits itself: the
keys are known before, so they are fenced before the statement. `_write(keys)` with many keys fences them
in a thread while the statements run. Inside `transaction()` a write is a savepoint, and steps 3 to 5
belong to the outermost transaction.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from functools import cache
from itertools import islice
from types import CodeType, FrameType
from typing import Concatenate, ParamSpec, TypeVar, overload
from uuid import UUID

import uuid_utils.compat as uuid_utils

from core.cache import NO_FENCE, NO_TOKEN, Cache, Fence
from core.database import Database
from core.database.holder import Holder
from core.database.positions import CURRENT, demanding
from core.errors import DatabaseError, QueryTimeout, TransactionConflict
from core.metrics import Metrics
from core.service.emails import UserEmails

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Each costs the server's deadlock_timeout, a second by default; a second conflict in a row is rare.
CONFLICT_ATTEMPTS = 3
# Errors after which the outcome is known: the server refused or cancelled, and nothing was committed.
OUTCOME_KNOWN = (DatabaseError, QueryTimeout)
# Setting fewer fences takes less time than starting a thread.
LEAST_KEYS_FENCED_AHEAD = 500
# A fence lasts this much longer than any single statement, COMMIT included, with some reserve.
FRESH_SECONDS = 2.0
_PACKAGE = __name__.rpartition(".")[0]
# Rows of one statement of a stream: a few megabytes at most, and the round trip no longer counts.
STREAM_ROWS = 2_000


class Changes:
    """The cache keys to invalidate once a transaction has committed.

    Keys that are `known` before the statements run may be fenced while they run.
    """

    def __init__(self, known: Sequence[str] = ()) -> None:
        self._known = known
        self.keys: list[str] = []

    def invalidate(self, *keys: str) -> None:
        """Note keys."""
        self.keys.extend(keys)

    def list_all(self) -> list[str]:
        """Return every key."""
        return [*self._known, *self.keys]


class ServiceBase:
    """The base class of the areas of the service."""

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
        """Run a query for the public method in whose body this call is written."""
        return self._database.read(name_operation(sys._getframe(1)), query, *args, **kwargs)  # noqa: SLF001  # documented

    def _read_current(
        self, query: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Like `_read`, never on a replica: for a read that a decision depends on."""
        with demanding(CURRENT):
            return self._database.read(name_operation(sys._getframe(1)), query, *args, **kwargs)  # noqa: SLF001  # documented

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Group the calls of the block: all are committed at the end, or none.

        Only the calls in the block see its writes before it commits. An error that leaves the block undoes
        everything; one that is caught inside undoes only the call that raised it. Transactions nest; the
        outermost commits. Holds one connection until it ends.

        The block belongs to the thread that enters it, and there to the asyncio task or to the
        function that a thread pool called. Other threads and tasks have their own transactions; if they
        run in the block's context, as with `asyncio.to_thread`, their calls raise `TransactionMisused`.
        A block is rolled back when it awaits, when another thread or task leaves it, or when its own has
        ended. Later calls in it, and its end, then raise `TransactionMisused`: run the whole block in one
        function with `asyncio.to_thread`. A process that is forked inside is not part of the block: its
        calls are independent.

        Raises `DatabaseUnavailable` when the connection is lost, even if the commit happened and only its
        reply was lost. A call that is part of a deadlock raises a `DatabaseError`: repeat the whole block
        then, because other writers wait for the rows that it has locked.
        """
        holder = Holder.of_block(sys._getframe())  # noqa: SLF001  # documented
        with self._write_as("transaction", holder=holder):
            yield

    # -- writes ---------------------------------------------------------------------------

    def _write(self, keys: Sequence[str] = ()) -> AbstractContextManager[tuple[Database, Changes]]:
        """Run the block as a write of the public method in whose body this call is written.

        The block gets the database and the `Changes` that note more keys than those given.
        """
        return self._write_as(name_operation(sys._getframe(1)), keys)  # noqa: SLF001  # documented

    def _write_one(
        self,
        keys: Sequence[str],
        query: Callable[Concatenate[Database, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a write of one statement, which changes exactly what is cached under `keys`.

        Outside of `transaction()` the statement commits itself, which saves the round trip of a COMMIT.
        """
        operation = name_operation(sys._getframe(1))  # noqa: SLF001  # documented
        if self._database.in_transaction():
            with self._write_as(operation, keys) as (database, _):
                return query(database, *args, **kwargs)
        fence = NO_FENCE
        is_fenced = False
        try:
            with self._database.session(operation) as database:
                # after the checkout, which may take longer than a fence lasts
                is_fenced = True
                fence = self._cache.fence(keys)
                result = query(database, *args, **kwargs)
                position = database.find_position()
        except BaseException as error:
            if is_fenced:
                self._cache.invalidate(keys, fence, outcome_known=isinstance(error, OUTCOME_KNOWN))
            raise
        self._cache.invalidate(keys, fence, position=position)
        return result

    def _repeat(self, write: Callable[[], T], *conflicts: type[DatabaseError]) -> T:
        """Run a write, and again when the server undid it because of a conflict with another writer.

        Inside `transaction()` only for the `conflicts`: the other writer waits for the transaction.
        """
        repeated: tuple[type[DatabaseError], ...] = conflicts
        if not self._database.in_transaction():
            repeated += (TransactionConflict,)
        for _ in range(CONFLICT_ATTEMPTS - 1):
            try:
                return write()
            except repeated as error:
                logger.info("repeating a write after a conflict: %s", error)
        return write()

    def _write_as(
        self, operation: str, keys: Sequence[str] = (), *, holder: Holder | None = None
    ) -> AbstractContextManager[tuple[Database, Changes]]:
        """Like `_write`; a transaction in which code of the caller runs has a `holder`."""
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
        # not after an error: the savepoint was rolled back
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
        self._cache.invalidate(changes.list_all(), fence, position=unit.position)


class LazyKeys(Sequence[str]):
    """Keys that are built when first needed: building thousands takes as long as fencing them."""

    def __init__(self, count: int, build: Callable[[], list[str]]) -> None:
        self._count = count
        self._build = build
        self._lock = threading.Lock()
        self._keys: list[str] | None = None

    def __len__(self) -> int:
        """Return the number of keys without building them."""
        return self._count

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        """Return the key, or the keys, at a place."""
        return self._find()[place]

    def __iter__(self) -> Iterator[str]:
        """Yield every key."""
        return iter(self._find())

    def _find(self) -> list[str]:
        with self._lock:
            if self._keys is None:
                self._keys = self._build()
            return self._keys


class FenceAhead:
    """The fences that one transaction sets in a thread while its statements run.

    Redis needs as long for thousands of fences as PostgreSQL for a good part of the rows, and neither
    needs the other before the COMMIT. A few keys are left to the end of the transaction.
    """

    def __init__(
        self, cache: Cache, keys: Sequence[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cache = cache
        self._keys = keys
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._started_at = 0.0
        self._is_done = False
        self.token = NO_TOKEN

    def start(self) -> None:
        """Begin to set the fences."""
        if len(self._keys) < LEAST_KEYS_FENCED_AHEAD:
            return
        self.token = self._cache.new_fence()
        self._started_at = self._clock()
        self._thread = threading.Thread(target=self._run, name="fence-ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._cache.fence(self._keys, self.token, is_awaited=True)
        self._is_done = True

    def finish(self, more: Sequence[str]) -> Sequence[str]:
        """Wait for the fences; return those of the keys, and of `more`, that still have to be fenced."""
        if self._thread is None:
            return [*self._keys, *more]
        self._thread.join()
        if not self._is_done or self._clock() - self._started_at > FRESH_SECONDS:
            # a fence that expires before the COMMIT has ended protects nothing
            return [*self._keys, *more]
        fenced = set(self._keys) if more else ()
        return [key for key in more if key not in fenced]

    def cancel(self) -> Sequence[str]:
        """Wait for the fences; return the keys that have one."""
        if self._thread is None:
            return ()
        self._thread.join()
        return self._keys


def name_operation(frame: FrameType) -> str:
    """Return the operation of a call: the public method of the service in whose body it is written.

    It labels metrics, logs and statements. Functions inside of the method count as its body, and frames
    outside of this package are skipped.
    """
    found: FrameType | None = frame
    while found is not None:
        if found.f_globals["__name__"].startswith(_PACKAGE):
            return _name_method(found.f_code)
        found = found.f_back
    raise TypeError(f"{frame.f_code.co_qualname} is not called by a method of the service")


@cache
def _name_method(code: CodeType) -> str:
    # Class.method, or Class.method.<locals>.function
    names = code.co_qualname.split(".")
    if len(names) < 2 or names[1].startswith("_"):
        raise TypeError(f"{code.co_qualname} is not a public method; pass the operation on from one")
    return names[1]


def new_id() -> UUID:
    """Return a time-ordered UUID (version 7, RFC 9562), so that inserts stay local."""
    return uuid_utils.uuid7()


def format_width(width: timedelta) -> str:
    """Return a width in seconds, for a cache key; different widths have different texts."""
    return str(width.total_seconds()).removesuffix(".0")


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


# -- keyset pages -------------------------------------------------------------------------


def list_pages(
    load: Callable[[T | None, int], Sequence[T]], rows: int, after: T | None = None
) -> Iterator[Sequence[T]]:
    """Yield page after page; `load` returns up to `rows` records that follow one (None: the first ones).

    No connection is held and no statement is open between two pages, so a slow reader costs the
    database nothing.
    """
    while page := load(after, rows):
        yield page
        if len(page) < rows:
            return
        after = page[-1]


def stream_pages(load: Callable[[T | None, int], Sequence[T]], after: T | None = None) -> Iterator[T]:
    """Yield the records that follow one (None: all), page after page."""
    for page in list_pages(load, STREAM_ROWS, after):
        yield from page
