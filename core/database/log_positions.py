"""Positions in the write-ahead log (LSN): what this process wrote, and what a read must have seen.

Owns the statements that ask a primary for its position, the position that the present context demands of a
replica, and the text of a token. Connects to nothing.

After a COMMIT the server reports a position. The commit is at or before it, so a replica that has replayed
up to that position shows the commit. The position is that of the last flush, because only flushed records
are sent to replicas; the log may end seconds later. With `synchronous_commit = off` a commit is not flushed,
so there the position is the end of the log.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Final, NamedTuple

from core.failover import Timeline
from core.metrics.names import ReadReason

Position = int
"""Bytes of the log, as a whole number."""

# NULL on a server that is in recovery, where the other functions raise an error.
POSITION: Final = """CASE WHEN pg_is_in_recovery() THEN NULL
    WHEN current_setting('synchronous_commit') = 'off' THEN pg_current_wal_insert_lsn()
    ELSE pg_current_wal_flush_lsn() END"""
SELECT_POSITION: Final = f"SELECT {POSITION}"
# The position and the log that it belongs to: a restored or another server has another log, and a promoted
# one another timeline. The first eight digits of a segment's name are those of the timeline.
SELECT_LOG_TIMELINE: Final = f"""
    SELECT {POSITION}, system_identifier::text,
           CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_flush_lsn()), 8) END
    FROM pg_control_system()"""  # noqa: S608  # a constant
_TOKEN: Final = re.compile(r"(\d{1,20})\.([0-9A-F]{8})\.([0-9A-F]{1,16})", re.ASCII)


class LogTimeline(NamedTuple):
    """The timeline of a server's log, where positions can be compared: system identifier and number.

    `core.failover.Timeline` is that of one database and schema.
    """

    system: str
    number: int

    def is_of(self, known: Timeline | None) -> bool:
        """Say whether the primary that the pool is connected to writes this log."""
        return (
            known is not None and known.database.startswith(f"{self.system}.") and known.number == self.number
        )


class ConsistencyToken(NamedTuple):
    """A position of a primary; its text carries it to other processes."""

    log_timeline: LogTimeline
    position: Position

    def __str__(self) -> str:
        return f"{self.log_timeline.system}.{self.log_timeline.number:08X}.{self.position:X}"


def read_token(execute_sql: Callable[..., Any]) -> ConsistencyToken | None:
    """Return the token of everything that is committed, or None on a server that is no primary."""
    [row] = execute_sql(SELECT_LOG_TIMELINE).fetchall()
    return None if row[0] is None else ConsistencyToken(parse_log_timeline(row), parse_position(row[0]))


def parse_log_timeline(row: Sequence[Any]) -> LogTimeline:
    """Return the timeline in a row of `SELECT_LOG_TIMELINE` of a primary."""
    return LogTimeline(row[1], int(row[2], 16))


def parse_token(text: object) -> ConsistencyToken | None:
    """Return the token that a text stands for, or None when it is none."""
    found = _TOKEN.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    return ConsistencyToken(LogTimeline(found[1], int(found[2], 16)), int(found[3], 16))


def parse_position(text: str) -> Position:
    """Return the position that PostgreSQL shows as `16/B374D848`."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def format_position(position: Position) -> str:
    """Return a position in the form of PostgreSQL."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


class Demand(NamedTuple):
    """What the reads of a context must see: a position; without one they ask the primary, for this reason."""

    position: Position | None
    reason: ReadReason = "unknown"


# The primary answers reads on which a decision rests, and reads that check a cached value.
CURRENT: Final = Demand(None, "current")
# None: an uncached read, which sees at least what this process wrote.
_DEMAND: ContextVar[Demand | None] = ContextVar("demand", default=None)
_TOKENS: ContextVar[tuple[ConsistencyToken, ...]] = ContextVar("tokens", default=())

find_demand = _DEMAND.get
find_tokens = _TOKENS.get
"""Return the tokens of the blocks around the present call."""


class demanding:  # noqa: N801  # used like a function; a generator would take several times as long
    """Let the reads of the block demand a position, or the primary."""

    __slots__ = ("_before", "_demand")

    def __init__(self, demand: Demand) -> None:
        self._demand = demand

    def __enter__(self) -> None:
        self._before: Token[Demand | None] = _DEMAND.set(self._demand)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _DEMAND.reset(self._before)


class at_least:  # noqa: N801  # as above
    """Let the reads of the block see every commit from before the token was made; blocks nest."""

    __slots__ = ("_before", "_token")

    def __init__(self, token: ConsistencyToken) -> None:
        self._token = token

    def __enter__(self) -> None:
        self._before: Token[tuple[ConsistencyToken, ...]] = _TOKENS.set((*_TOKENS.get(), self._token))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _TOKENS.reset(self._before)


class OwnWrites:
    """The position of what this process wrote; thread safe."""

    def __init__(self, *, unknown_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """After a write without a position the own position is unknown for `unknown_seconds`."""
        self._unknown_seconds = unknown_seconds
        self._clock = clock
        self._position: Position = 0
        self._unknown_until = float("-inf")
        self._lock = threading.Lock()

    def note(self, position: Position | None) -> None:
        """Note a commit; None when its position is unknown."""
        if position is None:
            self._unknown_until = self._clock() + self._unknown_seconds
        else:
            with self._lock:
                self._position = max(self._position, position)

    def reset_after_fork(self) -> None:
        """Take a new lock; what the parent wrote counts for the child as well."""
        self._lock = threading.Lock()

    def find_position(self) -> Position | None:
        """Return what a read must have seen, or None when that is unknown."""
        return None if self._clock() < self._unknown_until else self._position
