"""Pauses between repeated attempts after a failure: exponential backoff with jitter and a maximum.

Owns only the length of the pauses; the callers wait.
"""

import random
from collections.abc import Callable

# The first pause is short, because most failures are a single late answer.
FIRST_SECONDS = 0.02
# Short enough that everything works again well within 5 s after a server has come back.
LONGEST_SECONDS = 1.0
GROWTH = 2.0
# The random fraction of a pause, so that processes that lost the same server do not all return at once.
JITTER = 0.5


class Backoff:
    """The pauses of one series of attempts; only one thread may use it."""

    def __init__(
        self,
        *,
        first_seconds: float = FIRST_SECONDS,
        longest_seconds: float = LONGEST_SECONDS,
        pick: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self._pick = pick
        self.reset()

    def reset(self) -> None:
        """Start again with the shortest pause."""
        self.longest_next_seconds = self._first_seconds

    def next_seconds(self) -> float:
        """Return the next pause, at most `longest_next_seconds`, and make the one after it longer."""
        limit = self.longest_next_seconds
        self.longest_next_seconds = min(limit * GROWTH, self._longest_seconds)
        return self._pick(limit * (1 - JITTER), limit)
