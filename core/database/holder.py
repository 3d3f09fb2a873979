"""The holder of a unit of work: a thread, and in it an asyncio task or a function that a thread pool called.

Owns only the identification of the holder. The thread alone does not identify it: a pool thread runs one
function after another, and an event loop runs many tasks on one thread, so a transaction that one function
left open would include the writes of the next one. Closes nothing and knows no connection.
"""

import asyncio
import inspect
import sys
import threading
from types import FrameType
from typing import Any

from core.errors import TransactionMisused

# The top-level packages whose threads and event loops run functions of the program, unrelated ones one after
# another. A unit of work belongs to the function that such a package has called, not to the whole thread.
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

    `is_block` is True if the holder has opened a `with` block, and False if the unit of work is that of one
    call of the service on this thread.
    """

    __slots__ = ("_call", "_task", "_thread", "is_block")

    def __init__(
        self,
        *,
        is_block: bool = False,
        task: "asyncio.Task[Any] | None" = None,
        call: FrameType | None = None,
    ) -> None:
        """Make the current thread the holder, or for a block the `task` or function `call` on it."""
        self._thread = threading.current_thread()
        self.is_block = is_block
        self._task = task
        # the reference keeps the frame alive, so that no other frame gets the same identity
        self._call = call

    @classmethod
    def of_block(cls, frame: FrameType) -> "Holder":
        """Return the holder of a `with` block that is entered in `frame`.

        Raises `TransactionMisused` if no function of the program keeps the block open: a thread pool has
        called `__enter__` directly, and will run other functions while the block is open.
        """
        task = _find_task()
        if task is not None:
            return cls(is_block=True, task=task)
        is_of_runner, call = _find_call(frame)
        if is_of_runner and call is None:
            raise TransactionMisused(
                f"{threading.current_thread().name} entered transaction() and goes on to other work before"
                f" its end, as with a dependency that yields; {REMEDY}"
            )
        return cls(is_block=True, call=call if is_of_runner else None)

    @property
    def name(self) -> str:
        """The name of the thread and, if there is a task, of the task."""
        thread = self._thread.name
        return thread if self._task is None else f"{self._task.get_name()} on {thread}"

    @property
    def is_task(self) -> bool:
        """Whether the holder is an asyncio task."""
        return self._task is not None

    def is_here(self) -> bool:
        """Return whether the calling code runs in this holder: in its thread, and its task or function."""
        if self._thread is not threading.current_thread():
            return False
        if not self.is_block:
            return True
        if self._task is not _find_task():
            return False
        return self._call is None or self._call is _find_call(sys._getframe())[1]  # noqa: SLF001  # CPython's, documented

    def is_ended(self) -> bool:
        """Return whether the holder has ended, so that nothing can end its unit of work any more."""
        if not self._thread.is_alive():
            return True
        if self._task is not None:
            return self._task.done()
        return self._call is not None and self._has_returned(self._call)

    def _has_returned(self, call: FrameType) -> bool:
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001  # CPython's, documented
        if frame is None or call.f_code.co_flags & inspect.CO_COROUTINE:
            # a coroutine may be suspended in another event loop, and then it is not on the stack
            return False
        while frame is not None and frame is not call:
            frame = frame.f_back
        return frame is None


def describe_present() -> str:
    """Return the name of the current thread and task, in the form of `Holder.name`."""
    return Holder(task=_find_task()).name


def _find_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _find_call(frame: FrameType | None) -> tuple[bool, FrameType | None]:
    """Return whether a runner is among the callers of `frame`, and the outermost function under the runner.

    Generators, and context managers made from them, are skipped: they return control to the runner while
    their block is open.
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
