"""What a forked child has to do anew.

Owns the registration alone: locks that threads of the parent held, its threads and its
sockets are the business of whoever has them.
"""

import os
import weakref
from collections.abc import Callable


def call_in_forked_child(method: Callable[[], object]) -> None:
    """Call a bound method in each child that is forked while its object lives."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        bound = reference()
        if bound is not None:
            bound()

    os.register_at_fork(after_in_child=call)
