"""A run of faults under load: what is done around each of them, and the table of what came of it.

Owns the order (cause, hold, undo, heal, compare) and the verdict. A fault is a context manager; what it
breaks, and how the stack is seen to be healthy again, is the caller's.
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

# How long each fault is held before it is undone; the load's calls give up after two.
HOLD_SECONDS = 4.0
# What is read afterwards counts for the fault: near caches are caught by their bound.
AFTER_SECONDS = 3.0


class Fault(NamedTuple):
    """Something that breaks for the length of a `with` block, and how long healing may take."""

    name: str
    cause: Callable[[], AbstractContextManager[None]]
    heal_seconds: float
    hold_seconds: float = HOLD_SECONDS
    skip: str | None = None
    """Why it cannot be caused here."""


class Row(NamedTuple):
    """What came of a fault; `healed_seconds` is None when it did not heal in time or was skipped."""

    fault: str
    figures: Figures
    healed_seconds: float | None
    skip: str | None = None

    @property
    def has_passed(self) -> bool:
        """Say whether nothing was lost or stale and all healed."""
        is_kept = self.figures.lost == self.figures.stale == 0
        return self.skip is not None or (is_kept and self.healed_seconds is not None)


def run_fault(fault: Fault, load: Load, *, is_healthy: Callable[[], bool]) -> Row:
    """Cause one fault and undo it; return when the stack and the load have healed, or the bound is over."""
    if fault.skip is not None:
        return Row(fault.name, Figures(), None, fault.skip)
    before = load.figures
    healed = None
    try:
        healed = _cause_and_heal(fault, load, is_healthy)
        time.sleep(AFTER_SECONDS)
        load.check_rows()
    except Exception as error:
        # whatever it is, those before it are reported, and this one has failed
        load.problems.append(f"{fault.name}: {type(error).__name__}: {error}")
        healed = None
    return Row(fault.name, load.figures.since(before), healed)


def _cause_and_heal(fault: Fault, load: Load, is_healthy: Callable[[], bool]) -> float | None:
    """Return the seconds from the fault's end to health, repairs included; None after its bound."""
    with fault.cause():
        time.sleep(fault.hold_seconds)
        ended = time.monotonic()
    bound_seconds = stretch(fault.heal_seconds)
    wait_until(
        lambda: load.has_recovered(since=ended) and is_healthy(),
        seconds=bound_seconds - (time.monotonic() - ended),
    )
    healed = time.monotonic() - ended
    # a repair alone may have taken longer
    return healed if healed <= bound_seconds else None


def run_faults(
    faults: Iterable[Fault], load: Load, *, is_healthy: Callable[[], bool], console: Console
) -> list[Row]:
    """Cause one fault after the other, each on a healthy stack; the first that does not heal is the last."""
    rows = []
    for fault in faults:
        console.print(f"{fault.name}: {fault.skip or 'caused'}", highlight=False, soft_wrap=True)
        rows.append(run_fault(fault, load, is_healthy=is_healthy))
        if rows[-1].skip is None and rows[-1].healed_seconds is None:
            break
    return rows


def show(rows: Iterable[Row], wrong: Iterable[str], console: Console) -> None:
    """Print the table, and in words some of what was wrong."""
    columns = ("fault", "writes", "reads", "lost", "stale", "refused", "declared old", "healed after")
    table = Table(*columns, box=None)
    for row in rows:
        if row.skip is not None:
            table.add_row(row.fault, *[""] * 6, f"skipped: {row.skip}")
            continue
        figures = row.figures
        numbers = (
            figures.writes, figures.reads, figures.lost, figures.stale, figures.refused, figures.declared_old,
        )  # fmt: skip  # one line of figures
        healed = "NOT HEALED" if row.healed_seconds is None else f"{row.healed_seconds:.1f} s"
        table.add_row(row.fault, *(f"{number:,}" for number in numbers), healed)
    console.print(table)
    for text in wrong:
        console.print(text, highlight=False, soft_wrap=True)
