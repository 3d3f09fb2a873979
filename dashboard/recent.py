"""Answers that are kept for a few seconds, for what every view of a page asks again.

Owns how long and how many; each process has its own. Never knows what an answer means. For
small reads that the service does not cache: which sessions there are, where players stood.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

RECENT_SECONDS = 5.0
"""So much later is something new seen here: less than it takes to notice, and many views."""

RECENT_ANSWERS = 256
"""Each at most some hundred rows; the least recently asked for leave first."""


class Recent:
    """Answers by what was asked, each at most `seconds` old; safe to share between threads.

    Several threads that miss at once each read for themselves: small reads are not worth a wait.
    """

    def __init__(
        self,
        *,
        seconds: float = RECENT_SECONDS,
        answers: int = RECENT_ANSWERS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._answers = answers
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()

    def get_or_load(self, question: Hashable, load: Callable[[], T]) -> T:
        """Return the answer that is kept, or read it with `load` and keep it; errors are not kept."""
        started = self._clock()
        with self._lock:
            kept = self._kept.get(question)
            if kept is not None and started - kept[0] < self._seconds:
                self._kept.move_to_end(question)
                found: T = kept[1]
                return found
        answer = load()
        with self._lock:
            # its age counts from before the reading: what was written meanwhile may be missing
            kept = self._kept.get(question)
            if kept is None or kept[0] <= started:
                self._kept[question] = (started, answer)
            self._kept.move_to_end(question)
            while len(self._kept) > self._answers:
                self._kept.popitem(last=False)
        return answer

    def clear(self) -> None:
        """Forget all answers."""
        with self._lock:
            self._kept.clear()
