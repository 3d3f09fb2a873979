"""The progress output of long loads, and `BatchWriter`, which writes batches in a thread."""

import io
import threading
from collections.abc import Sequence

import pytest
from rich.console import Console

from core.bulk_load import PLAIN_STEPS, BatchWriter, show_progress


def render_progress(*, is_terminal: bool) -> str:
    """Return the progress output of a load of 1,000 units."""
    file = io.StringIO()
    with show_progress(Console(file=file, force_terminal=is_terminal, width=100)) as progress:
        for done in range(1_001):
            progress("reading prices", done, 1_000)
        progress("loading prices", 0, 0)
    return file.getvalue()


def test_a_log_gets_a_few_lines() -> None:
    """Without a terminal each stage prints at most one line for each quarter."""
    lines = render_progress(is_terminal=False).splitlines()
    assert len(lines) == PLAIN_STEPS + 1
    assert lines[0] == "reading prices: 25 %"
    assert lines[-1] == "loading prices: 100 %"


def test_a_terminal_gets_a_bar() -> None:
    """On a terminal each stage has a progress bar."""
    text = render_progress(is_terminal=True)
    assert "reading prices" in text
    assert "loading prices" in text


def test_batches_are_written_in_order() -> None:
    """`BatchWriter` writes the batches in order in another thread and counts their rows."""
    written: list[tuple[str, list[int]]] = []

    def load(batch: Sequence[int]) -> int:
        written.append((threading.current_thread().name, list(batch)))
        return len(batch)

    with BatchWriter() as writes:
        writes.write(load, [1, 2])
        writes.write(load, [3])
    assert writes.rows == 3
    assert [batch for _, batch in written] == [[1, 2], [3]]
    assert all(name.startswith("batch-writer") for name, _ in written)


def test_an_error_stops_the_writer() -> None:
    """After a batch has failed, no later batch is written, and the `with` block raises the error."""
    written: list[int] = []

    def load(batch: Sequence[int]) -> int:
        if batch[0] == 2:
            raise ValueError("two")
        written.extend(batch)
        return len(batch)

    with pytest.raises(ValueError, match="two"), BatchWriter() as writes:
        for number in range(1, 6):
            writes.write(load, [number])
    assert written == [1]


def test_the_error_of_the_last_batch_is_raised() -> None:
    """The error of the last batch is raised at the end of the `with` block."""

    def load(_: Sequence[int]) -> int:
        raise ValueError("late")

    with pytest.raises(ValueError, match="late"), BatchWriter() as writes:
        writes.write(load, [1])
