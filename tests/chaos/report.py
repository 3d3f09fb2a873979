"""Run faults under load, and print a table of the results.

Owns the steps of each fault (cause it, hold it, undo it, wait until the stack has healed, compare the stored
rows) and the verdict. A fault is a context manager. The caller gives the faults and the health check.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from core.stack.processes import wait_until
from tests.chaos.load import Figures, Load
from tests.patience import stretch

# How long a fault lasts before it is undone: longer than the timeouts of the load, which are two seconds.
HOLD_SECONDS = 4.0
# How long the load runs after healing before the results are taken: longer than the 2.5 s after which a near
# cache must not return an old value, so that a stale near cache is noticed.
OBSERVE_SECONDS = 3.0


class Fault(NamedTuple):
    """A fault, which lasts for the length of a `with` block, and the limit for healing."""

    name: str
    cause: Callable[[], AbstractContextManager[None]]
    heal_seconds: float
    hold_seconds: float = HOLD_SECONDS
    skip: str | None = None
    """The reason why this fault cannot be caused on this machine, or None."""


class FaultResult(NamedTuple):
    """The result of a fault; `healed_seconds` is None if it did not heal in time or was skipped."""

    fault: str
    figures: Figures
    healed_seconds: float | None
    skip: str | None = None

    @property
    def has_passed(self) -> bool:
        """Return whether no write was lost, no read was stale and the stack healed; True if skipped."""
        is_coherent = self.figures.lost == self.figures.stale == 0
        return self.skip is not None or (is_coherent and self.healed_seconds is not None)


def run_fault(fault: Fault, load: Load, *, is_healthy: Callable[[], bool]) -> FaultResult:
    """Cause one fault, undo it, wait for healing, compare the rows and return the result."""
    if fault.skip is not None:
        return FaultResult(fault.name, Figures(), None, fault.skip)
    before = load.figures
    healed = None
    try:
        healed = _cause_and_heal(fault, load, is_healthy)
        time.sleep(OBSERVE_SECONDS)
        load.check_rows()
    except Exception as error:
        # any error fails only this fault, so that the results of the earlier faults are still printed
        load.problems.append(f"{fault.name}: {type(error).__name__}: {error}")
        healed = None
    return FaultResult(fault.name, load.figures.since(before), healed)


def _cause_and_heal(fault: Fault, load: Load, is_healthy: Callable[[], bool]) -> float | None:
    """Return the seconds for undoing the fault and healing, or None if they exceed the limit."""
    with fault.cause():
        time.sleep(fault.hold_seconds)
        ended = time.monotonic()
    limit_seconds = stretch(fault.heal_seconds)
    wait_until(
        lambda: load.has_recovered(since=ended) and is_healthy(),
        seconds=limit_seconds - (time.monotonic() - ended),
    )
    healed = time.monotonic() - ended
    # undoing the fault may take longer than the limit, for example with `make up`
    return healed if healed <= limit_seconds else None


def run_faults(
    faults: Iterable[Fault], load: Load, *, is_healthy: Callable[[], bool], console: Console
) -> list[FaultResult]:
    """Cause the faults one after the other; end after a fault that has not healed."""
    results = []
    for fault in faults:
        console.print(f"{fault.name}: {fault.skip or 'caused'}", highlight=False, soft_wrap=True)
        results.append(run_fault(fault, load, is_healthy=is_healthy))
        if results[-1].skip is None and results[-1].healed_seconds is None:
            break
    return results


def print_results(results: Iterable[FaultResult], problems: Iterable[str], console: Console) -> None:
    """Print the table of results and the texts of problems."""
    columns = ("fault", "writes", "reads", "lost", "stale", "refused", "declared old", "healed after")
    table = Table(*columns, box=None)
    for result in results:
        if result.skip is not None:
            table.add_row(result.fault, *[""] * 6, f"skipped: {result.skip}")
            continue
        figures = result.figures
        numbers = (
            figures.writes, figures.reads, figures.lost, figures.stale, figures.refused, figures.declared_old,
        )  # fmt: skip  # keep the numbers on one line
        healed = "NOT HEALED" if result.healed_seconds is None else f"{result.healed_seconds:.1f} s"
        table.add_row(result.fault, *(f"{number:,}" for number in numbers), healed)
    console.print(table)
    for text in problems:
        console.print(text, highlight=False, soft_wrap=True)
