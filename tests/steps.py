"""Counts bytecode instructions instead of time, because they do not depend on the load of the machine.

Also measures the peak of allocated memory, because copies by built-in functions (`dict(x)`, `list(x)`,
`sorted(x)`) execute one instruction for any number of items.
"""

import gc
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any


def count_steps(act: Callable[[], object]) -> int:
    """Return the number of bytecode instructions that a call executes in this thread."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before, is_collecting = sys.gettrace(), gc.isenabled()
    # garbage collection could run finalizers of other objects during the call
    gc.disable()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
        if is_collecting:
            gc.enable()
    return count


def measure_peak(act: Callable[[], object]) -> int:
    """Return the peak of allocated memory during a call in bytes, minus the memory before the call."""
    is_mine = not tracemalloc.is_tracing()
    if is_mine:
        tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        act()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if is_mine:
            tracemalloc.stop()
