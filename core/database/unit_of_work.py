"""Units of work: each has a connection, and the transactions that run on it.

`UnitOfWork` is a checked-out connection, with peewee's state of the connection (`Database._state`).
`UnitsOfWork` finds the open unit of work to which a call belongs: the one with the same holder. A holder is a
thread, a task or a function that a thread pool runs (`core.database.holder`). Python copies the context of a
`with` block into `asyncio.to_thread`, and into a task that is created in the block. A call there has another
holder than the block. It is refused, because its writes would be committed separately.

`Session` is the `with` block around a unit of work: it checks the connection out and in, and translates
errors. It is a class, because a context manager made from a generator takes several times as long. This
module runs no statement.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Generic, TypeVar

from core import forks
from core.database.connector import ServerConnection
from core.database.driver_errors import DRIVER_ERRORS, READ_ONLY, find_sqlstate, translate
from core.database.holder import REMEDY, Holder, describe_present
from core.database.identity import find_identity
from core.database.pool import ConnectionPool
from core.database.read_consistency import Lsn, find_tokens
from core.errors import (
    ConnectFailed,
    DatabaseError,
    EchoMarketsError,
    PoolClosed,
    PoolTimeout,
    TransactionMisused,
)
from core.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")

_NOBODY = Holder()


class UnitOfWork:
    """A checked-out connection and its state, until the connection is checked in."""

    def __init__(
        self,
        operation: str,
        holder: Holder,
        *,
        reclaim: Callable[[ServerConnection, Holder], bool] = lambda *_: False,
    ) -> None:
        """Start without a connection. `reclaim` is `ConnectionPool.reclaim`; by default it does nothing."""
        self.operation = operation
        self.holder = holder
        self.identity = find_identity()
        self.is_left = False
        self.changes: Any = None
        """Data of the service about the transaction; this module does not use it."""
        self.lsn: Lsn | None = None
        """The LSN of the last COMMIT. None if it is unknown, or if there are no replicas."""
        self.is_begin_due = False
        self.outer: UnitOfWork | None = None
        """The block around this one in the same context. It may belong to another `Database`."""
        self.units: UnitsOfWork | None = None
        self.handle: asyncio.Handle | None = None
        self._reclaim = reclaim
        self._misuse: str | None = None
        self._generation = forks.generation
        self.reset()

    def reset(self) -> None:
        """Forget the connection. peewee calls this method, so it must have this name."""
        self.closed = True
        self.conn: Any = None  # a ServerConnection; Any, because peewee's attributes have no types
        self.prefix = ""
        self.ctx: list[Any] = []
        self.transactions: list[Any] = []
        self.commit_callbacks: list[Any] = []

    def end(self) -> None:
        """Drop the connection and the holder: a copied context may keep this object alive for a long time."""
        self.reset()
        self.holder = _NOBODY

    def set_connection(self, raw: ServerConnection) -> None:
        """Use a connection. peewee calls this method, so it must have this name."""
        self.closed, self.conn = False, raw
        # session settings before the identity: the isolation level can be set only before any query
        self.prefix = raw.unit_prefix
        if self.identity is not None:
            self.prefix += self.identity.get_prefix(raw.server_version)

    @property
    def is_of_parent(self) -> bool:
        """Whether the unit of work belongs to the parent of this process, because it was open at the fork."""
        return self._generation != forks.generation

    def is_usable(self) -> bool:
        """Return whether the current thread or task may run a statement in this unit of work now."""
        return self._misuse is None and not self.is_of_parent and self.holder.is_here()

    def check(self) -> None:
        """Raise if the unit of work was given up, or if this process was forked while it was open."""
        if self.is_of_parent:
            raise DatabaseError(
                "the transaction belongs to the process that began it; end the child inside of the block"
            )
        if self._misuse is not None:
            raise TransactionMisused(self._misuse)

    def check_identity(self, operation: str) -> None:
        """Raise `TransactionMisused` if the unit of work did not begin with the current identity."""
        if self.identity != find_identity():
            raise TransactionMisused(
                f"{operation}() was called with another identity than that of {self.operation}(), which it is"
                " part of; begin acting_as() before the transaction, and end it after"
            )

    def check_end(self) -> None:
        """Raise if the unit of work cannot be committed. First give it up if the caller is not its holder."""
        self.check()
        if not self.holder.is_here():
            self.give_up(
                f"{self.operation}() was entered in {self.holder.name} and left in {describe_present()},"
                f" and is rolled back; {REMEDY}"
            )
            self.check()

    def give_up(self, reason: str) -> None:
        """Roll the unit of work back by closing its connection, even if the holder is using it."""
        self._misuse = self._misuse or reason
        if self.conn is not None and self._reclaim(self.conn, self.holder):
            logger.warning("%s; its connection was closed", reason)


class _Thread(threading.local):
    """The units of work that one thread has open."""

    def __init__(self) -> None:
        self.units: list[UnitOfWork] = []
        self.current: UnitOfWork | None = None


# The innermost open block of this context. A copy of the context has the same block, even in another thread.
_BLOCK: ContextVar[UnitOfWork | None] = ContextVar("block", default=None)


class UnitsOfWork:
    """The open units of work of one database; thread safe."""

    def __init__(self) -> None:
        self._thread = _Thread()

    def reset_after_fork(self) -> None:
        """Forget all units of work, because they belong to the parent process."""
        self._thread = _Thread()

    @property
    def current(self) -> UnitOfWork | None:
        """The unit of work whose connection this thread uses now, or None."""
        return self._thread.current

    def use(self, unit: UnitOfWork) -> UnitOfWork | None:
        """Make a unit of work the current one of this thread. Return the previous one."""
        before, self._thread.current = self._thread.current, unit
        return before

    def restore(self, previous: UnitOfWork | None, unit: UnitOfWork) -> None:
        """Make `previous` the current unit of work again, if `unit` is the current one of this thread."""
        if self._thread.current is unit:
            self._thread.current = previous

    def in_transaction(self) -> bool:
        """Return whether the calling code is in a transaction. Raises `TransactionMisused`."""
        # a fast path, because each cached read calls this, and usually no block is open
        if not self._thread.units and _BLOCK.get() is None:
            return False
        unit = self.find()
        return unit is not None and bool(unit.transactions)

    def is_cache_bypassed(self) -> bool:
        """Return whether the calling code must read from the database instead of the cache.

        Raises `TransactionMisused`.
        """
        # a fast path, as in `in_transaction`
        if not self._thread.units and _BLOCK.get() is None:
            return bool(find_tokens())
        return self.in_transaction() or bool(find_tokens())

    def find(self) -> UnitOfWork | None:
        """Return the unit of work of the calling code, or None. Raises `TransactionMisused`."""
        opened = self._thread.units
        if not opened and _BLOCK.get() is None:
            return None
        for unit in reversed(opened.copy()):
            if not unit.is_left and unit.holder.is_here():
                unit.check()
                return unit
            if unit.is_left or _give_up_ended(unit):
                opened.remove(unit)
        self._refuse_copies()
        for unit in opened:
            if unit.holder.is_task:
                # Another task already runs on this thread, but the event loop has not yet made the call that
                # `enter` has scheduled.
                _give_up_suspended(unit)
        return None

    def _refuse_copies(self) -> None:
        """Raise `TransactionMisused` if this thread or task has a copy of the context of a foreign block."""
        block = _BLOCK.get()
        while block is not None:
            if block.units is self and not block.is_left and not block.is_of_parent:
                block.check()
                if not _give_up_ended(block):
                    raise TransactionMisused(
                        f"a call in {describe_present()} is not part of transaction(), whose context it has"
                        f" from {block.holder.name}; {REMEDY}"
                    )
            block = block.outer

    def enter(self, unit: UnitOfWork) -> None:
        """From now on, let calls of the unit's holder join the unit of work."""
        self._thread.units.append(unit)
        if not unit.holder.is_block:
            return
        unit.units, unit.outer = self, _BLOCK.get()
        _BLOCK.set(unit)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        # the event loop calls `_give_up_suspended` as soon as the block awaits something
        unit.handle = loop.call_soon(_give_up_suspended, unit)

    def leave(self, unit: UnitOfWork) -> None:
        """Let no further calls join the unit of work. Takes no lock."""
        unit.is_left = True
        if unit in self._thread.units:
            self._thread.units.remove(unit)
        if _BLOCK.get() is unit:
            outer = unit.outer
            while outer is not None and outer.is_left:
                outer = outer.outer
            _BLOCK.set(outer)
        if unit.handle is not None:
            unit.handle.cancel()


def _give_up_ended(unit: UnitOfWork) -> bool:
    """Give up a unit of work if its holder has ended and left it open. Return whether it was given up."""
    if not unit.holder.is_ended():
        return False
    unit.give_up(f"{unit.operation}() was left open by {unit.holder.name} and is rolled back; {REMEDY}")
    unit.is_left = True
    return True


def _give_up_suspended(unit: UnitOfWork) -> None:
    """Give up a block that is still open when the event loop runs other tasks.

    The block would keep its database locks while other tasks run. If one of these tasks waited for such a
    lock, it would stop the thread of the event loop, and so the block itself, until a timeout.
    """
    if not unit.is_left and not _give_up_ended(unit):
        unit.give_up(
            f"{unit.operation}() was rolled back because its block awaited something before its end"
            f" and other tasks of the event loop ran meanwhile; {REMEDY}"
        )


class SessionManager:
    """Begins and ends the units of work of one database, on connections of its pool."""

    def __init__(self, pool: ConnectionPool, units: UnitsOfWork, metrics: Metrics) -> None:
        self.units = units
        self._pool = pool
        self.metrics = metrics

    def create_unit(self, operation: str, holder: Holder | None) -> UnitOfWork:
        """Return a unit of work without a connection. The default `holder` is this thread."""
        return UnitOfWork(operation, holder or Holder(), reclaim=self._pool.reclaim)

    def begin(self, unit: UnitOfWork) -> None:
        """Check a connection out for the unit of work, and let calls join it."""
        unit.set_connection(self._pool.checkout(unit.operation, unit.holder))
        self.units.enter(unit)

    def end(self, unit: UnitOfWork, before: UnitOfWork | None, *, is_collected: bool) -> None:
        """Let no further calls join the unit of work, and check its connection in.

        `is_collected` says whether the garbage collector ends the block. Then no lock may be taken.
        """
        self.units.leave(unit)
        self.units.restore(before, unit)
        raw = unit.conn
        if raw is not None and not unit.is_of_parent:
            if is_collected:
                self._pool.abandon(raw, unit.holder)
            elif unit.is_usable():
                self._pool.checkin(raw)
            else:
                with contextlib.suppress(DatabaseError):
                    unit.check_end()
        unit.end()

    def translate(self, error: BaseException, operation: str) -> EchoMarketsError | None:
        """Count `error` if it is a database error. Return its translation, or None if it needs none."""
        if isinstance(error, PoolTimeout | PoolClosed | ConnectFailed):
            reason = "08" if isinstance(error, ConnectFailed) else "pool"
            self.metrics.count_operation_error(operation, reason)
            return None
        if not isinstance(error, DRIVER_ERRORS):
            return None
        state = find_sqlstate(error)
        self.metrics.count_operation_error(operation, state[:2] if state else "08")
        if state == READ_ONLY:
            # this server may be a former primary; new connections may reach the new primary
            self._pool.expire_all()
        return translate(error, operation)


class Session(Generic[T]):
    """One `with` block around a unit of work. `with ... as` binds `value`."""

    __slots__ = (
        "_before", "_is_joined", "_manager", "_operation", "_outer_operation", "_started", "_unit", "_value",
    )  # fmt: skip  # the formatter would put each name on its own line

    def __init__(self, manager: SessionManager, value: T, operation: str, holder: Holder | None) -> None:
        self._manager = manager
        self._value = value
        self._operation = operation
        found = manager.units.find()
        if found is not None:
            found.check_identity(operation)
        self._is_joined = found is not None
        self._unit = found or manager.create_unit(operation, holder)

    def __enter__(self) -> T:
        self._started = time.perf_counter()
        unit = self._unit
        self._outer_operation, unit.operation = unit.operation, self._operation
        # make the unit of work current before the check-out: log lines of the check-out name its operation
        self._before = self._manager.units.use(unit)
        if not self._is_joined:
            try:
                self._manager.begin(unit)
            except BaseException as error:
                self.__exit__(type(error), error, error.__traceback__)
                raise
        return self._value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # GeneratorExit may come from the garbage collector, which can run while this thread holds a lock
        is_collected = kind is GeneratorExit
        leaving = error
        try:
            if self._is_joined:
                self._unit.operation = self._outer_operation
                self._manager.units.restore(self._before, self._unit)
            else:
                self._manager.end(self._unit, self._before, is_collected=is_collected)
        except BaseException as late:
            # this error replaces the error of the block, as it would in a `finally` clause
            leaving = late
        if not is_collected:
            self._manager.metrics.observe_operation(self._operation, time.perf_counter() - self._started)
        if leaving is None:
            return
        translated = self._manager.translate(leaving, self._operation)
        if translated is not None:
            raise translated from leaving
        if leaving is not error:
            raise leaving
