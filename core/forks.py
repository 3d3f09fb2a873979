"""Support for forks: a child process needs new locks, threads, sockets and counters.

Owns the registration with the interpreter. The cache, the database, the metrics and the health check each
register one method, which creates these again in the child.
"""

import itertools
import os
import weakref
from collections.abc import Callable

generation = 0
"""How many forks lie between this process and the first one that imported this module."""

_numbers = itertools.count()
# in the order of registration; the interpreter's own list cannot be shortened, and would hold a
# callback for each service that was ever opened
_methods: dict[int, "weakref.WeakMethod[Callable[[], object]]"] = {}


def call_in_forked_child(method: Callable[[], object]) -> None:
    """Call a bound method in each child that is forked while its object lives."""
    number = next(_numbers)
    _methods[number] = weakref.WeakMethod(method, lambda _: _methods.pop(number, None))


def _call_all() -> None:
    global generation  # noqa: PLW0603  # cheaper to compare than a process id
    generation += 1
    for reference in list(_methods.values()):
        method = reference()
        if method is not None:
            method()


os.register_at_fork(after_in_child=_call_all)
