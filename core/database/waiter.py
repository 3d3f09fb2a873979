"""A thread's place in the queue for a connection.

Owns the hand-over between the thread that gives and the one that waits.
"""

import threading

from core.database.pooled_connection import PooledConnection


class Waiter:
    """`granted` is a connection, or None for the permission to open one."""

    __slots__ = ("event", "granted", "is_granted")

    def __init__(self) -> None:
        self.event = threading.Event()
        self.granted: PooledConnection | None = None
        self.is_granted = False

    def grant(self, entry: PooledConnection | None) -> None:
        """Hand over and wake the thread."""
        self.granted = entry
        self.is_granted = True
        self.event.set()
