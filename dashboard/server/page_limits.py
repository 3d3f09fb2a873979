"""Limits the number of open pages, per client and in total, over all processes of the host."""

import resource
from collections import Counter
from typing import Self

from core import Settings
from core.web.client_deadlines import MANY_AHEAD, MAX_WAITING

ANONYMOUS_PART, ALL_ANONYMOUS_PART = 5, 2
"""Divisors that reduce two limits of open pages before a sign-in: per client, and in total.

All clients that have not signed in share the second limit.
"""


RESERVED_FILES = MAX_WAITING + MANY_AHEAD + 50
"""Number of file descriptors that each process keeps free for other clients, PostgreSQL and Redis."""


class HostPageLimits:
    """Counts the open pages of a host. Use it in one event loop only."""

    def __init__(self, *, max_open: int, max_of_client: int) -> None:
        self._max_open = max(1, max_open)
        self._max_of_client = max_of_client
        self._open: Counter[tuple[str, bool]] = Counter()

    @classmethod
    def of_host(cls, settings: Settings) -> Self:
        """Return the limits of the settings.

        The limit for all clients together is lower if the processes may not open enough files.
        """
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return cls(
            max_open=min(
                settings.dashboard_connections, settings.dashboard_workers * (files - RESERVED_FILES)
            ),
            max_of_client=settings.dashboard_connections_per_client,
        )

    async def enter(self, client: str, *, is_known: bool) -> bool:
        """Count one more page and return True. Return False if a limit is reached."""
        if self._is_full(client, is_known=is_known):
            return False
        self._open[client, is_known] += 1
        return True

    def leave(self, client: str, *, is_known: bool) -> None:
        """Subtract one page from the count."""
        self._open[client, is_known] -= 1
        if not self._open[client, is_known]:
            del self._open[client, is_known]

    def _is_full(self, client: str, *, is_known: bool) -> bool:
        if self._open.total() >= self._max_open:
            return True
        if is_known:
            return self._open[client, True] >= self._max_of_client
        anonymous = sum(count for (_, known), count in self._open.items() if not known)
        allowed = max(1, self._max_of_client // ANONYMOUS_PART)
        return (
            anonymous >= max(1, self._max_open // ALL_ANONYMOUS_PART) or self._open[client, False] >= allowed
        )
