"""How often somebody may do something within this process.

Owns the counting, a sliding window per name; knows nothing of what is limited. Each process
counts for itself: two dashboards together let twice as much through.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

REMEMBERED = 10_000
"""Names kept; of more, those seen longest ago are forgotten, so that nobody fills the memory."""


class RateLimit:
    """At most `limit` events per name within any `seconds`; thread safe."""

    def __init__(self, *, limit: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._events: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, name: str) -> float:
        """Count an event and return 0, or count nothing and return the seconds until one is let through."""
        now = self._clock()
        with self._lock:
            events = self._events.setdefault(name, deque())
            self._events.move_to_end(name)
            while len(self._events) > REMEMBERED:
                self._events.popitem(last=False)
            while events and events[0] <= now - self._seconds:
                events.popleft()
            if len(events) >= self._limit:
                return events[0] + self._seconds - now
            events.append(now)
            return 0.0
