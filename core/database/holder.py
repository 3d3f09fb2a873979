"""The holder of a unit of work: a thread, and in it an asyncio task or the function that a pool called.

Owns only the answer to "who holds it". The thread alone is not enough: a thread of a pool runs one function
after another, and an event loop runs many tasks on one thread, so a transaction that one function left open
would include the writes of the next one. Closes nothing and knows no connection.
"""

import asyncio
import inspect
import sys
import threading
from types import FrameType
from typing import Any

from core.errors import TransactionMisused

# Packages that run the functions of a program one after another on one thread.
RUNNERS = frozenset(
    {"anyio", "asgiref", "asyncio", "billiard", "concurrent", "multiprocessing", "threading", "trio"}
)
_GENERATORS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR

REMEDY = (
    "put the whole block into one function that runs on one thread;"
    " from a coroutine: await asyncio.to_thread(function)"
)


class Holder:
    """The holder of a unit of work; without a block it is this thread, for one call. Immutable."""

    __slots__ = ("_call", "_task", "_thread", "is_block")

    def __init__(
        self,
        *,
        is_block: bool = False,
        task: "asyncio.Task[Any] | None" = None,
        call: FrameType | None = None,
    ) -> None:
        """Name this thread, or with a block `task` or `call` in it, as the holder."""
        self._thread = threading.current_thread()
        self.is_block = is_block
        self._task = task
        # kept alive by this reference, so that no other frame takes its identity
        self._call = call

    @classmethod
    def of_block(cls, frame: FrameType) -> "Holder":
        """Return the holder of a `with` block that is entered in `frame`.

        Raises `TransactionMisused` when no function of the program holds the block open: a thread pool
        called `__enter__` itself, and continues with other work while the block is open.
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
        """The thread's name, and the task's."""
        thread = self._thread.name
        return thread if self._task is None else f"{self._task.get_name()} on {thread}"

    @property
    def is_task(self) -> bool:
        """Whether it is a task of an event loop."""
        return self._task is not None

    def is_here(self) -> bool:
        """Say whether the holder is running now."""
        if self._thread is not threading.current_thread():
            return False
        if not self.is_block:
            return True
        if self._task is not _find_task():
            return False
        return self._call is None or self._call is _find_call(sys._getframe())[1]  # noqa: SLF001  # CPython's, documented

    def is_ended(self) -> bool:
        """Say whether the holder has ended, so that nobody can end its unit of work any more."""
        if not self._thread.is_alive():
            return True
        if self._task is not None:
            return self._task.done()
        return self._call is not None and self._has_returned(self._call)

    def _has_returned(self, call: FrameType) -> bool:
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001  # CPython's, documented
        if frame is None or call.f_code.co_flags & inspect.CO_COROUTINE:
            # a coroutine of another event loop may be suspended
            return False
        while frame is not None and frame is not call:
            frame = frame.f_back
        return frame is None


def describe_present() -> str:
    """Return the name of the thread and task that run now, as `Holder.name`."""
    return Holder(task=_find_task()).name


def _find_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _find_call(frame: FrameType | None) -> tuple[bool, FrameType | None]:
    """Return whether a runner is among the callers of `frame`, and the function that it called.

    Generators do not count, nor do context managers made of them: they return control while their
    block is open.
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
