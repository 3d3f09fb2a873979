"""The holder of a unit of work: the thread, asyncio task or function call to which the unit of work belongs.

Owns only the identification of the holder. A thread alone does not identify a holder: a thread of a thread
pool runs one function after another, and an event loop runs many tasks on one thread. If a function left a
transaction open, this transaction would include the writes of the next function on the thread. Closes
nothing and knows no connection.
"""

import asyncio
import inspect
import sys
import threading
from types import FrameType
from typing import Any

from core.errors import TransactionMisused

# Top-level packages whose threads and event loops run unrelated functions of the program, one after another.
# A unit of work belongs to the function that such a package has called, not to the whole thread.
RUNNERS = frozenset(
    {"anyio", "asgiref", "asyncio", "billiard", "concurrent", "multiprocessing", "threading", "trio"}
)
_GENERATORS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR

REMEDY = (
    "put the whole block into one function that runs on one thread;"
    " from a coroutine: await asyncio.to_thread(function)"
)


class Holder:
    """The holder of a unit of work; immutable.

    `is_block` is True if the program keeps the unit of work open with a `with` block. It is False if the unit
    of work begins and ends inside one call of the service.
    """

    __slots__ = ("_call", "_task", "_thread", "is_block")

    def __init__(
        self,
        *,
        is_block: bool = False,
        task: "asyncio.Task[Any] | None" = None,
        call: FrameType | None = None,
    ) -> None:
        """Make the current thread the holder, or one task or one function call on this thread.

        For a task, `task` is given. For a function call, `call` is the frame of the function.
        """
        self._thread = threading.current_thread()
        self.is_block = is_block
        self._task = task
        # this reference keeps the frame alive, so that no later frame can be the same object
        self._call = call

    @classmethod
    def of_block(cls, frame: FrameType) -> "Holder":
        """Return the holder of a `with` block that is entered in `frame`.

        Raises `TransactionMisused` if a thread pool has called `__enter__` directly. No function of the
        program then keeps the block open, and the thread would run other functions before the block ends.
        """
        task = _find_task()
        if task is not None:
            return cls(is_block=True, task=task)
        is_of_runner, call = _find_call(frame)
        if is_of_runner and call is None:
            raise TransactionMisused(
                f"{threading.current_thread().name} entered transaction() and would run other functions"
                f" before its end, as with a dependency that yields; {REMEDY}"
            )
        return cls(is_block=True, call=call if is_of_runner else None)

    @property
    def name(self) -> str:
        """The name of the holder, for example `MainThread`, or `Task-1 on MainThread` for a task."""
        thread = self._thread.name
        return thread if self._task is None else f"{self._task.get_name()} on {thread}"

    @property
    def is_task(self) -> bool:
        """Whether the holder is an asyncio task."""
        return self._task is not None

    def is_here(self) -> bool:
        """Return whether the calling code runs in the thread of this holder, and in its task or function."""
        if self._thread is not threading.current_thread():
            return False
        if not self.is_block:
            return True
        if self._task is not _find_task():
            return False
        return self._call is None or self._call is _find_call(sys._getframe())[1]  # noqa: SLF001  # CPython's, documented

    def is_ended(self) -> bool:
        """Return whether the thread, task or function has ended, and so cannot end its unit of work."""
        if not self._thread.is_alive():
            return True
        if self._task is not None:
            return self._task.done()
        return self._call is not None and self._has_returned(self._call)

    def _has_returned(self, call: FrameType) -> bool:
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001  # CPython's, documented
        if frame is None or call.f_code.co_flags & inspect.CO_COROUTINE:
            # a suspended coroutine is not on the stack, but has not returned
            return False
        while frame is not None and frame is not call:
            frame = frame.f_back
        return frame is None


def describe_present() -> str:
    """Return the name of the current thread or task, in the form of `Holder.name`."""
    return Holder(task=_find_task()).name


def _find_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _find_call(frame: FrameType | None) -> tuple[bool, FrameType | None]:
    """Return whether a package of RUNNERS called `frame`, and the frame that the package called directly.

    The package may have called `frame` through other functions. If no such package called `frame`, the
    outermost frame is returned. Generators, and context managers made from generators, are skipped: they
    return to their caller while their block is open.
    """
    call = None
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package in RUNNERS:
            return True, call
        if package != "contextlib" and not frame.f_code.co_flags & _GENERATORS:
            call = frame
        frame = frame.f_back
    return False, call
