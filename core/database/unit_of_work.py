"""Units of work: which connection a call uses, and whose transaction it is part of.

Owns the state that peewee keeps of a connection (its `Database._state`), and the rule that a
transaction is never shared by accident: a call joins the unit of work that its own thread, task
or pool function has open, and no other. A call that carries the context of another one's block
(`asyncio.to_thread`, a task that was created inside) is refused, because it would be committed
without the rest. Runs no statement.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from core.database.connector import ServerConnection
from core.database.owner import REMEDY, Owner, describe_present
from core.errors import DatabaseError, TransactionMisused

logger = logging.getLogger(__name__)

_NOBODY = Owner()


class UnitOfWork:
    """A connection that is checked out, and what belongs to it until it is checked in."""

    def __init__(
        self,
        operation: str,
        owner: Owner,
        *,
        reclaim: Callable[[ServerConnection, Owner], bool] = lambda *_: False,
    ) -> None:
        """Begin without a connection; `reclaim` closes it, and returns False if its owner has it no more."""
        self.operation = operation
        self.owner = owner
        self.is_left = False
        self.changes: Any = None
        """What the service notes about the transaction."""
        self.is_begin_due = False
        self.outer: UnitOfWork | None = None
        """The block around this one in the same context, perhaps of another database."""
        self.units: UnitsOfWork | None = None
        self.handle: asyncio.Handle | None = None
        self._reclaim = reclaim
        self._misuse: str | None = None
        self._pid = os.getpid()
        self.reset()

    def reset(self) -> None:
        """Have no connection; peewee's name."""
        self.closed = True
        self.conn: Any = None  # a ServerConnection; peewee knows it as anything
        self.ctx: list[Any] = []
        self.transactions: list[Any] = []
        self.commit_callbacks: list[Any] = []

    def end(self) -> None:
        """Let go of connection and owner: a copy of the context may keep the rest for long."""
        self.reset()
        self.owner = _NOBODY

    def set_connection(self, raw: ServerConnection) -> None:
        """Use a connection; peewee's name."""
        self.closed, self.conn = False, raw

    @property
    def is_of_parent(self) -> bool:
        """Whether this process was forked inside."""
        return self._pid != os.getpid()

    def is_usable(self) -> bool:
        """Say whether a statement can be run in it here and now."""
        return self._misuse is None and not self.is_of_parent and self.owner.is_here()

    def check(self) -> None:
        """Raise when it was given up, or when this process was forked inside."""
        if self.is_of_parent:
            raise DatabaseError(
                "the transaction belongs to the process that began it; end the child inside of the block"
            )
        if self._misuse is not None:
            raise TransactionMisused(self._misuse)

    def check_end(self) -> None:
        """Raise unless it can be committed, which only its owner may do; else it is given up."""
        self.check()
        if not self.owner.is_here():
            self.give_up(
                f"{self.operation}() was entered in {self.owner.name} and left in {describe_present()},"
                f" and is rolled back; {REMEDY}"
            )
            self.check()

    def give_up(self, reason: str) -> None:
        """Roll it back from outside, by closing its connection, which its owner may still use."""
        self._misuse = self._misuse or reason
        if self.conn is not None and self._reclaim(self.conn, self.owner):
            logger.warning("%s; its connection was closed", reason)


class _Thread(threading.local):
    """What a thread has open."""

    def __init__(self) -> None:
        self.units: list[UnitOfWork] = []
        self.current: UnitOfWork | None = None


# The innermost block that the present context was made in, whoever owns it; copies of a context see it too.
_BLOCK: ContextVar[UnitOfWork | None] = ContextVar("block", default=None)


class UnitsOfWork:
    """The open units of work of one database; thread safe."""

    def __init__(self) -> None:
        self._thread = _Thread()

    def forget(self) -> None:
        """Have none open, in a forked child."""
        self._thread = _Thread()

    @property
    def current(self) -> UnitOfWork | None:
        """The unit of work whose connection this thread is using."""
        return self._thread.current

    def use(self, unit: UnitOfWork) -> UnitOfWork | None:
        """Make a unit of work the current one; return the one before."""
        before, self._thread.current = self._thread.current, unit
        return before

    def use_again(self, before: UnitOfWork | None, instead_of: UnitOfWork) -> None:
        """Make the one before current again, unless this is another thread."""
        if self._thread.current is instead_of:
            self._thread.current = before

    def in_transaction(self) -> bool:
        """Say whether a call made now is part of a transaction; raises `TransactionMisused`."""
        # what each cached read asks first: the usual answer takes two look-ups
        if not self._thread.units and _BLOCK.get() is None:
            return False
        unit = self.find()
        return unit is not None and bool(unit.transactions)

    def find(self) -> UnitOfWork | None:
        """Return the unit of work that a call made now is part of; raises `TransactionMisused`."""
        opened = self._thread.units
        if not opened and _BLOCK.get() is None:
            return None
        for unit in reversed(opened.copy()):
            if not unit.is_left and unit.owner.is_here():
                unit.check()
                return unit
            if unit.is_left or _give_up_ended(unit):
                opened.remove(unit)
        self._refuse_copies()
        for unit in opened:
            if unit.owner.is_task:
                # another task of this thread runs, before the event loop comes to what gives it up
                _give_up_suspended(unit)
        return None

    def _refuse_copies(self) -> None:
        """Refuse a call that runs elsewhere in the context of a block that is still open."""
        block = _BLOCK.get()
        while block is not None:
            if block.units is self and not block.is_left and not block.is_of_parent:
                block.check()
                if not _give_up_ended(block):
                    raise TransactionMisused(
                        f"a call in {describe_present()} is not part of transaction(), whose context it has"
                        f" from {block.owner.name}; {REMEDY}"
                    )
            block = block.outer

    def enter(self, unit: UnitOfWork) -> None:
        """Let the calls of its owner join a unit of work from now on."""
        self._thread.units.append(unit)
        if not unit.owner.is_block:
            return
        unit.units, unit.outer = self, _BLOCK.get()
        _BLOCK.set(unit)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        # runs as soon as the block lets the loop go on
        unit.handle = loop.call_soon(_give_up_suspended, unit)

    def leave(self, unit: UnitOfWork) -> None:
        """Let no call join a unit of work any more; takes no lock."""
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
    """Give a unit of work up whose owner has ended without leaving it; say whether it has."""
    if not unit.owner.is_ended():
        return False
    unit.give_up(f"{unit.operation}() was left open by {unit.owner.name} and is rolled back; {REMEDY}")
    unit.is_left = True
    return True


def _give_up_suspended(unit: UnitOfWork) -> None:
    """Give a block up that is still open when the event loop goes on.

    It would keep its locks while other tasks run, and one of them that waits for such a lock
    stops the thread, and with it the block, until a timeout.
    """
    if not unit.is_left and not _give_up_ended(unit):
        unit.give_up(
            f"{unit.operation}() was rolled back because its block awaited something before its end"
            f" and other tasks of the event loop ran meanwhile; {REMEDY}"
        )
