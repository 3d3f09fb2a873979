"""Notices failovers: remembers the timeline of the database that this process uses.

A promoted replica continues on a new timeline, which has a higher number. The replica may lack the last
commits of the former primary. So values that were read on the old timeline must leave the cache. A former
primary that still runs must be refused.

Imports no part of the database or the cache. The database reports the timeline of each connection. The cache
is notified when the timeline changes, and reports a newer timeline that it finds in Redis.

Source: PostgreSQL documentation, "Continuous Archiving", Timelines; "System Information Functions".
"""

import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple, Self

from core.errors import EchoMarketsError
from core.forks import call_in_forked_child

logger = logging.getLogger(__name__)

# SQL expression for the timeline, in the form that `Timeline.parse` reads; NULL for a server in recovery.
# Between a promotion and the next checkpoint, only min_recovery_end_timeline has the new number.
TIMELINE_SQL: Final = """CASE WHEN NOT pg_is_in_recovery() THEN (
    SELECT system_identifier || '.' || database.oid || '.' || current_schema()::regnamespace::oid
           || ':' || greatest(timeline_id, min_recovery_end_timeline)
      FROM pg_control_system(), pg_control_checkpoint(), pg_control_recovery(), pg_database AS database
     WHERE datname = current_database()
) END"""
TRY_AGAIN_SECONDS: Final = 1.0
_TEXT = re.compile(r"([\d.]+):(\d+)")


class Timeline(NamedTuple):
    """A timeline of PostgreSQL. `number` grows with each promotion of a standby.

    `database` identifies the database system, the database and the schema.
    """

    database: str
    number: int

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Parse a text such as `7400000000000000000.16384.2200:2`; return None for any other text."""
        found = _TEXT.fullmatch(text or "")
        return None if found is None else cls(found[1], int(found[2]))

    def __str__(self) -> str:
        return f"{self.database}:{self.number}"

    def is_before(self, other: "Timeline | None") -> bool:
        """Return whether `other` is a later timeline of the same database."""
        return other is not None and self.database == other.database and self.number < other.number


class FormerPrimary(Exception):
    """A server accepts writes, but its timeline is older than a timeline that was already in use."""


class KnownTimeline:
    """The timeline that this process uses, and a later one that other processes use; thread safe."""

    def __init__(self) -> None:
        self._connected: Timeline | None = None
        self._newest: Timeline | None = None
        self._try_again_at = float("-inf")
        self._connect: Callable[[], None] = lambda: None
        self._on_change: list[Callable[[Timeline | None], None]] = []
        self._on_newer: list[Callable[[], None]] = []
        self._make_lock()
        call_in_forked_child(self._make_lock)

    def _make_lock(self) -> None:
        self._lock = threading.Lock()

    @property
    def connected(self) -> Timeline | None:
        """The timeline of the newest connection to a primary, or None before the first connection."""
        return self._connected

    def learn_with(self, connect: Callable[[], None]) -> None:
        """Set the function by which `learn` connects to the database. It must call `record_connected`."""
        self._connect = connect

    def learn(self) -> None:
        """Connect to the database if no timeline is known. Raises the errors of the database."""
        if self._connected is None:
            self._connect()

    def try_to_learn(self) -> EchoMarketsError | None:
        """Connect like `learn`, at most once a second. Return the error of the database, or None.

        Does nothing and returns None if the last attempt was less than a second ago.
        """
        if self._connected is not None or time.monotonic() < self._try_again_at:
            return None
        self._try_again_at = time.monotonic() + TRY_AGAIN_SECONDS
        try:
            self._connect()
        except EchoMarketsError as error:
            return error
        return None

    def call_on_change(self, listener: Callable[[Timeline | None], None]) -> None:
        """Register a function that is called when the timeline changes.

        `listener` gets the previous timeline, or None at the first connection. It runs before any statement
        runs on the new timeline.
        """
        self._on_change.append(listener)

    def call_on_newer(self, listener: Callable[[], None]) -> None:
        """Register a function that is called when another process has connected to a later timeline."""
        self._on_newer.append(listener)

    def record_connected(self, timeline: Timeline | None) -> None:
        """Remember the timeline of a new connection (None for a standby). Raises `FormerPrimary`."""
        if timeline is None or timeline == self._connected == self._newest:
            return
        with self._lock:
            self._refuse_former(timeline)
            if timeline == self._connected:
                return
            before, self._connected, self._newest = self._connected, timeline, timeline
            if before is not None:
                logger.warning(
                    "the database has changed from timeline %s to %s: the cache is dropped", before, timeline
                )
            for listener in self._on_change:
                listener(before)
            # check again: a listener may have found a newer timeline in Redis and called `record_newer`
            self._refuse_former(timeline)

    def _refuse_former(self, timeline: Timeline) -> None:
        if self._newest is not None and timeline.is_before(self._newest):
            self._connected = None
            raise FormerPrimary(
                f"the server is a former primary: it is on timeline {timeline.number}, and timeline"
                f" {self._newest.number} has been in use; make it a standby of the present primary, or take"
                " it out of DATABASE_URL"
            )

    def record_newer(self, timeline: Timeline) -> None:
        """Remember `timeline`, to which another process has connected, if it is later than ours."""
        if self._connected is not None and self._connected.is_before(timeline) and timeline != self._newest:
            self._newest = timeline
            for listener in self._on_newer:
                listener()
