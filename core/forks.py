"""Support for forks: a child process needs new locks, threads, sockets and counters.

Owns the registration with the interpreter. The cache, the database, the metrics and the health check each
register a method that creates their locks, threads, sockets and counters again in the child.
"""

import itertools
import os
import weakref
from collections.abc import Callable
from typing import Any

generation = 0
"""The number of forks from the process that first imported this module to this process."""

_numbers = itertools.count()
# in the order of registration; a separate list, because callbacks cannot be removed from the interpreter's
# list, which would grow with each service that is opened
_methods: dict[int, tuple[Callable[[], object], Callable[..., object]]] = {}


def call_in_forked_child(method: Callable[[], object]) -> None:
    """Call a bound method in each child process that is forked while the method's object exists."""
    number = next(_numbers)
    # no WeakMethod, whose callback may fail while the interpreter exits, and then prints a traceback
    bound: Any = method
    owner = weakref.ref(bound.__self__, lambda _: _methods.pop(number, None))
    _methods[number] = (owner, bound.__func__)


def _call_all() -> None:
    global generation  # noqa: PLW0603  # cheaper to compare than a process id
    generation += 1
    for find_owner, function in list(_methods.values()):
        owner = find_owner()
        if owner is not None:
            function(owner)


os.register_at_fork(after_in_child=_call_all)
