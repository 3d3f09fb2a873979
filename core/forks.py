"""What a forked child has to do anew.

Owns the registration alone: locks that threads of the parent held, its threads and its
sockets are the business of whoever has them.
"""

import itertools
import os
import weakref
from collections.abc import Callable

_numbers = itertools.count()
# in the order of registration; the interpreter's own list cannot be shortened, and would hold a
# callback for each service that was ever opened
_methods: dict[int, "weakref.WeakMethod[Callable[[], object]]"] = {}


def call_in_forked_child(method: Callable[[], object]) -> None:
    """Call a bound method in each child that is forked while its object lives."""
    number = next(_numbers)
    _methods[number] = weakref.WeakMethod(method, lambda _: _methods.pop(number, None))


def _call_all() -> None:
    for reference in list(_methods.values()):
        method = reference()
        if method is not None:
            method()


os.register_at_fork(after_in_child=_call_all)
