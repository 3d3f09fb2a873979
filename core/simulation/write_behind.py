"""Writes one batch while the caller prepares the next.

Owns one thread and the order of its work: batches are written one after the other,
and the caller waits rather than queue a second one, so that memory stays bounded.
The database then works on one core while Python works on the other.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

BATCH_ROWS = 20_000
"""What the service writes in one transaction."""


class WriteBehind:
    """A context manager; leaving it waits for the last batch.

    An error of a batch is raised by the next `write`, or on leaving; no later batch is
    written then.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="write-behind")
        self._running: Future[int] | None = None

    def write(self, load: Callable[[Sequence[T]], int], batch: Sequence[T]) -> None:
        """Begin to write a batch once the one before is written; count the rows it reports."""
        self.wait()
        self._running = self._executor.submit(load, batch)

    def wait(self) -> None:
        """Wait until everything given so far is written."""
        running, self._running = self._running, None
        if running is not None:
            self.rows += running.result()

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
                self.wait()
        finally:
            self._executor.shutdown(wait=True)
