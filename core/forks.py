"""Calls registered methods in each forked child process.

A child needs new locks, threads, sockets and counters. Each object that owns some of them, for example the
cache or the database, registers a method that creates them again. Owns the only callback of
`os.register_at_fork`.
"""

import itertools
import os
import weakref
from collections.abc import Callable
from typing import Any

generation = 0
"""The number of forks between the process that first imported this module (0 there) and this process."""

_numbers = itertools.count()
# The registered methods, in order. They are not passed to `os.register_at_fork`, because a callback cannot be
# removed from its list: the list would grow with each service that is opened.
_methods: dict[int, tuple[Callable[[], object], Callable[..., object]]] = {}


def call_in_forked_child(method: Callable[[], object]) -> None:
    """Register a bound method to be called in each forked child, for as long as its object exists."""
    number = next(_numbers)
    # not weakref.WeakMethod: its callback may fail and print a traceback while the interpreter exits
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
