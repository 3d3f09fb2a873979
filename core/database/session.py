"""A unit of work as a `with` block: check-out, check-in, and what errors leave as.

Owns the order of these steps. A class and not a generator, because every call enters one, and a
generator's context manager takes several times as long. Runs no statement.
"""

import contextlib
import time
from types import TracebackType
from typing import Generic, TypeVar

from core.database.faults import DRIVER_ERRORS, READ_ONLY, find_sqlstate, translate
from core.database.owner import Owner
from core.database.pool import ConnectionPool
from core.database.unit_of_work import UnitOfWork, UnitsOfWork
from core.errors import ConnectFailed, DatabaseError, EchoMarketsError, PoolClosed, PoolTimeout
from core.metrics import Metrics

T = TypeVar("T")


class Sessions:
    """What the sessions of one database share."""

    def __init__(self, pool: ConnectionPool, units: UnitsOfWork, metrics: Metrics) -> None:
        self.units = units
        self._pool = pool
        self._metrics = metrics

    def create_unit(self, operation: str, owner: Owner | None) -> UnitOfWork:
        """Return a unit of work of its owner, or of this thread; it has no connection yet."""
        return UnitOfWork(operation, owner or Owner(), reclaim=self._pool.reclaim)

    def begin(self, unit: UnitOfWork) -> None:
        """Check a connection out for a unit of work, and let calls join it."""
        unit.set_connection(self._pool.checkout(unit.operation, unit.owner))
        self.units.enter(unit)

    def end(self, unit: UnitOfWork, before: UnitOfWork | None, *, is_collected: bool) -> None:
        """Let no call join a unit of work any more, and check its connection in."""
        self.units.leave(unit)
        self.units.use_again(before, unit)
        raw = unit.conn
        if raw is not None and not unit.is_of_parent:
            if is_collected:
                self._pool.abandon(raw, unit.owner)
            elif unit.is_usable():
                self._pool.checkin(raw)
            else:
                with contextlib.suppress(DatabaseError):
                    unit.check_end()
        unit.end()

    def translate(self, error: BaseException, operation: str) -> EchoMarketsError | None:
        """Count an error of the database; return what it leaves as, or None for itself."""
        if isinstance(error, PoolTimeout | PoolClosed | ConnectFailed):
            reason = "08" if isinstance(error, ConnectFailed) else "pool"
            self._metrics.count_operation_error(operation, reason)
            return None
        if not isinstance(error, DRIVER_ERRORS):
            return None
        state = find_sqlstate(error)
        self._metrics.count_operation_error(operation, state[:2] if state else "08")
        if state == READ_ONLY:
            # it was the primary, or is it again: only a new connection finds out
            self._pool.expire_all()
        return translate(error, operation)

    def observe(self, operation: str, seconds: float) -> None:
        """Record how long a session took."""
        self._metrics.observe_operation(operation, seconds)


class Session(Generic[T]):
    """One block; `value` is what `with ... as` gives."""

    __slots__ = (
        "_before", "_is_joined", "_of", "_operation", "_outer_operation", "_started", "_unit", "_value",
    )  # fmt: skip  # one name a line would say no more

    def __init__(self, of: Sessions, value: T, operation: str, owner: Owner | None) -> None:
        self._of = of
        self._value = value
        self._operation = operation
        found = of.units.find()
        self._is_joined = found is not None
        self._unit = found or of.create_unit(operation, owner)

    def __enter__(self) -> T:
        self._started = time.perf_counter()
        unit = self._unit
        self._outer_operation, unit.operation = unit.operation, self._operation
        # current before it has a connection: what is logged meanwhile has its operation
        self._before = self._of.units.use(unit)
        if not self._is_joined:
            try:
                self._of.begin(unit)
            except BaseException as error:
                self.__exit__(type(error), error, error.__traceback__)
                raise
        return self._value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # the garbage collector may come in the middle of anything: it must not wait for a lock
        is_collected = kind is GeneratorExit
        leaving = error
        try:
            if self._is_joined:
                self._unit.operation = self._outer_operation
                self._of.units.use_again(self._before, self._unit)
            else:
                self._of.end(self._unit, self._before, is_collected=is_collected)
        except BaseException as late:  # takes the place of the block's own, as that of a `finally` does
            leaving = late
        if not is_collected:
            self._of.observe(self._operation, time.perf_counter() - self._started)
        if leaving is None:
            return
        translated = self._of.translate(leaving, self._operation)
        if translated is not None:
            raise translated from leaving
        if leaving is not error:
            raise leaving
