"""Writes batches while the caller prepares the next ones.

Owns its threads, and how many batches may be on their way: then the caller waits
rather than queue more, so that memory stays bounded. The database works on one core
while Python works on the other.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

BATCH_ROWS = 20_000
"""What the service writes in one transaction."""


class WriteBehind:
    """A context manager; leaving it waits for the last batch.

    With more than one batch `at_once` their order is open, so they must not have rows in
    common. An error of a batch is raised by a later `write`, or on leaving, and ends the
    writing.
    """

    def __init__(self, *, at_once: int = 1) -> None:
        self.rows = 0
        self._at_once = at_once
        self._executor = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="write-behind")
        self._running: deque[Future[int]] = deque()

    def write(self, load: Callable[[Sequence[T]], int], batch: Sequence[T]) -> None:
        """Begin to write a batch as soon as there is room; count the rows that `load` returns."""
        self._wait(self._at_once - 1)
        self._running.append(self._executor.submit(load, batch))

    def _wait(self, left: int) -> None:
        while len(self._running) > left:
            self.rows += self._running.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._wait(0)
        finally:
            self._executor.shutdown(wait=True)
