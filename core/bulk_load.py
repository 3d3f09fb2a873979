"""Helpers for long bulk loads: a display of progress, and a writer that writes batches in the background.

Shows progress bars on a terminal. Prints a few lines of text if the output is not a terminal.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

import rich.progress
from rich.console import Console

T = TypeVar("T")

BATCH_ROWS: Final = 20_000
"""Rows in one batch, which the service writes in one transaction."""

PLAIN_STEPS: Final = 4
"""Maximum number of lines per stage if the output is not a terminal: they show that the load continues."""


class Progress(Protocol):
    """A function that a load calls repeatedly to report its progress."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report that `done` of `total` rows (or bytes, or sessions) are complete.

        `stage` names the current part of the load, such as "loading prices".
        """


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Do nothing. Used when no progress is shown."""


@contextmanager
def show_progress(console: Console | None = None) -> Iterator[Progress]:
    """Yield a function that shows progress on `console`; the default is standard error."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _PlainLines(console)
        return
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    with rich.progress.Progress(*columns, console=console) as bars:
        yield _Bars(bars)


class _Bars:
    """Shows one progress bar per stage."""

    def __init__(self, bars: rich.progress.Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, rich.progress.TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)


class _PlainLines:
    """Prints one line for each quarter of a stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        step = PLAIN_STEPS * min(done, total) // total if total else PLAIN_STEPS
        if step > self._shown.get(stage, 0):
            self._shown[stage] = step
            percent = 100 * step // PLAIN_STEPS
            self._console.print(f"{stage}: {percent} %", highlight=False, soft_wrap=True)


class BatchWriter:
    """Writes batches in the background while the caller prepares the next batch.

    The database works on one core while Python works on another one. If the caller is faster than the
    database, `write` waits, which limits memory use. Up to `concurrency` batches are written at the same time
    and in any order; with more than one, batches must have no rows in common. An error of a batch is raised
    by a later `write`, or at the end of the `with` block, which waits for the last batch.
    """

    def __init__(self, *, concurrency: int = 1) -> None:
        self.rows = 0
        self._concurrency = concurrency
        self._executor = ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="batch-writer")
        self._running: deque[Future[int]] = deque()

    def write(self, load: Callable[[Sequence[T]], int], batch: Sequence[T]) -> None:
        """Call `load(batch)` in the background, and add its result to `self.rows`.

        Waits first if `concurrency` batches are being written.
        """
        self._wait(self._concurrency - 1)
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
