"""What can go wrong while the stack is started or stopped."""

from core.errors import EchoMarketsError


class StackError(EchoMarketsError):
    """A part of the stack cannot be started or stopped; the message carries the remedy."""
