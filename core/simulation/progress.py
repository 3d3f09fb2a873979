"""How far a long job has come, for people who wait for it.

Owns what is shown: a bar on a terminal, and a few plain lines where the output
goes to a file. Never knows what the job is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import rich.progress
from rich.console import Console

PLAIN_STEPS = 4  # lines per stage in a log: enough to see that it moves


class Progress(Protocol):
    """Called by a job while it works, as often as it likes."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say that `done` of `total` units of a stage are done."""


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Show nothing."""


@contextmanager
def show_progress(console: Console | None = None) -> Iterator[Progress]:
    """Show the progress of what runs inside the block, on standard error by default."""
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
    """One bar per stage."""

    def __init__(self, bars: rich.progress.Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, rich.progress.TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)


class _PlainLines:
    """One line each time that another quarter of a stage is done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        step = PLAIN_STEPS * min(done, total) // total if total else PLAIN_STEPS
        if step > self._shown.get(stage, 0):
            self._shown[stage] = step
            percent = 100 * step // PLAIN_STEPS
            self._console.print(f"{stage}: {percent} %", highlight=False, soft_wrap=True)
