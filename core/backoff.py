"""Pauses between attempts at something that failed: exponential, jittered, bounded.

Owns only their length; its callers wait.
"""

import random
from collections.abc import Callable

# The first attempt comes soon, because most failures are one late answer.
FIRST_SECONDS = 0.02
# Short enough that everything heals well within 5 s.
LONGEST_SECONDS = 1.0
GROWTH = 2.0
# The part of a pause that is random, so that processes which lost the same server do not return together.
JITTER = 0.5


class Backoff:
    """The pauses of one series of attempts; for one thread."""

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
        """Begin with the shortest pause again."""
        self.longest_next_seconds = self._first_seconds

    def next_seconds(self) -> float:
        """Return the next pause, at most `longest_next_seconds`, and make the one after it longer."""
        limit = self.longest_next_seconds
        self.longest_next_seconds = min(limit * GROWTH, self._longest_seconds)
        return self._pick(limit * (1 - JITTER), limit)
