"""How many pages are open, of each client and in all, and whether there is room for one more.

Owns the limits of a host, whichever of its processes has the page.
"""

import resource
from collections import Counter
from typing import Self

from core import Settings
from core.web.client_deadlines import MANY_AHEAD, MOST_WAITING

ANONYMOUS_PART, ALL_ANONYMOUS_PART = 5, 2
"""Before a sign-in a client may have a fifth of its pages, and all such clients half of all."""


RESERVED_FILES = MOST_WAITING + MANY_AHEAD + 50
"""Open files of a process that are kept free for other clients, PostgreSQL and Redis."""


class HostPageLimits:
    """The open pages of a host; for one event loop."""

    def __init__(self, *, most: int, most_of_client: int) -> None:
        self._most = max(1, most)
        self._most_of_client = most_of_client
        self._open: Counter[tuple[str, bool]] = Counter()

    @classmethod
    def of_host(cls, settings: Settings) -> Self:
        """Return the limits of the settings, as far as the open files of each process allow them."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return cls(
            most=min(settings.dashboard_connections, settings.dashboard_workers * (files - RESERVED_FILES)),
            most_of_client=settings.dashboard_connections_per_client,
        )

    async def enter(self, client: str, *, is_known: bool) -> bool:
        """Count one more page if there is room for it, and say whether there is."""
        if self._is_full(client, is_known=is_known):
            return False
        self._open[client, is_known] += 1
        return True

    def leave(self, client: str, *, is_known: bool) -> None:
        """Count one page less."""
        self._open[client, is_known] -= 1
        if not self._open[client, is_known]:
            del self._open[client, is_known]

    def _is_full(self, client: str, *, is_known: bool) -> bool:
        if self._open.total() >= self._most:
            return True
        if is_known:
            return self._open[client, True] >= self._most_of_client
        anonymous = sum(count for (_, known), count in self._open.items() if not known)
        allowed = max(1, self._most_of_client // ANONYMOUS_PART)
        return anonymous >= max(1, self._most // ALL_ANONYMOUS_PART) or self._open[client, False] >= allowed
