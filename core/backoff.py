"""Computes the pauses between repeated attempts: exponential backoff with jitter and a maximum.

Does not sleep: the caller waits until the pause is over.
"""

import random
from collections.abc import Callable

# The first pause is short: most failures are a single late answer of a server, and the next attempt succeeds
# at once.
FIRST_SECONDS = 0.02
# The longest pause. All processes must work again within 5 s after a server has come back.
MAX_SECONDS = 1.0
GROWTH = 2.0
# Each pause is shortened by a random fraction, at most this one. Otherwise all processes that lost the same
# server would connect to it again at the same moment.
JITTER = 0.5


class Backoff:
    """Computes the pauses of one series of attempts; not thread safe."""

    def __init__(
        self,
        *,
        first_seconds: float = FIRST_SECONDS,
        max_seconds: float = MAX_SECONDS,
        pick: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first_seconds = first_seconds
        self._max_seconds = max_seconds
        self._pick = pick
        self.reset()

    def reset(self) -> None:
        """Begin a new series of attempts, with the shortest pause."""
        self.max_next_seconds = self._first_seconds

    def next_seconds(self) -> float:
        """Return the pause before the next attempt, which is at most `max_next_seconds`.

        Then `max_next_seconds` is doubled for the following attempt, up to the longest pause.
        """
        limit = self.max_next_seconds
        self.max_next_seconds = min(limit * GROWTH, self._max_seconds)
        return self._pick(limit * (1 - JITTER), limit)
