"""How long work notices that it should end.

Owns the request to stop and how it interrupts a long list of calls.
"""

import threading


class Stopped(Exception):  # a request, not an error
    """The simulator was asked to stop in the middle of something."""


class Stopping:
    """Wraps the event that asks to stop."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    @property
    def requested(self) -> bool:
        """Whether the simulator was asked to stop."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise `Stopped` once asked to stop; called between two calls of the service."""
        if self._event.is_set():
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than until asked to stop."""
        self._event.wait(seconds)
