"""Positions in the write-ahead log (LSN): of the writes of this process, and those that reads demand.

Owns the statements that ask a primary for its position, the position that reads of the current context demand
of a replica, and the text form of a token. Opens no connection.

After a COMMIT the server reports a position. The commit is at or before it, so on a replica that has replayed
up to this position the commit is visible. The position is that of the last flush, because only flushed
records are sent to replicas, and the end of the log may be flushed only seconds later. With
`synchronous_commit = off` a commit is not flushed, so then the position is the end of the log.
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
"""An LSN as an integer: the number of bytes from the beginning of the log."""

# NULL on a server in recovery, because the functions of the other branches raise an error there.
POSITION: Final = """CASE WHEN pg_is_in_recovery() THEN NULL
    WHEN current_setting('synchronous_commit') = 'off' THEN pg_current_wal_insert_lsn()
    ELSE pg_current_wal_flush_lsn() END"""
SELECT_POSITION: Final = f"SELECT {POSITION}"
# The position and the log to which it belongs: another server or a restored one has another system
# identifier, and a promoted server has another timeline. The first eight digits of the name of a WAL segment
# are the timeline.
SELECT_LOG_TIMELINE: Final = f"""
    SELECT {POSITION}, system_identifier::text,
           CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_flush_lsn()), 8) END
    FROM pg_control_system()"""  # noqa: S608  # a constant
_TOKEN: Final = re.compile(r"(\d{1,20})\.([0-9A-F]{8})\.([0-9A-F]{1,16})", re.ASCII)


class LogTimeline(NamedTuple):
    """A system identifier and the number of its timeline: only positions on the same one can be compared.

    `core.failover.Timeline` in contrast also identifies the database and schema.
    """

    system: str
    number: int

    def is_of(self, known: Timeline | None) -> bool:
        """Return whether the primary to which the pool is connected (`known`) writes this log."""
        return (
            known is not None and known.database.startswith(f"{self.system}.") and known.number == self.number
        )


class ConsistencyToken(NamedTuple):
    """A position of a primary, which can be sent to other processes as text."""

    log_timeline: LogTimeline
    position: Position

    def __str__(self) -> str:
        return f"{self.log_timeline.system}.{self.log_timeline.number:08X}.{self.position:X}"


def read_token(execute_sql: Callable[..., Any]) -> ConsistencyToken | None:
    """Return a token that covers all commits up to now, or None if the server is not a primary."""
    [row] = execute_sql(SELECT_LOG_TIMELINE).fetchall()
    return None if row[0] is None else ConsistencyToken(parse_log_timeline(row), parse_position(row[0]))


def parse_log_timeline(row: Sequence[Any]) -> LogTimeline:
    """Return the timeline from a row of `SELECT_LOG_TIMELINE`, which a primary has returned."""
    return LogTimeline(row[1], int(row[2], 16))


def parse_token(text: object) -> ConsistencyToken | None:
    """Return the token in a text, or None if the text is not a token."""
    found = _TOKEN.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    return ConsistencyToken(LogTimeline(found[1], int(found[2], 16)), int(found[3], 16))


def parse_position(text: str) -> Position:
    """Return the position in a text of PostgreSQL's form, such as `16/B374D848`."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def format_position(position: Position) -> str:
    """Return a position as text in PostgreSQL's form."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


class Demand(NamedTuple):
    """The position that the reads of a context must see; without one they run on the primary.

    `reason` is the label with which reads on the primary are counted.
    """

    position: Position | None
    reason: ReadReason = "unknown"


# Reads on which a decision depends, and reads that check a cached value, must run on the primary.
CURRENT: Final = Demand(None, "current")
# None is for an uncached read, which must see at least the writes of this process.
_DEMAND: ContextVar[Demand | None] = ContextVar("demand", default=None)
_TOKENS: ContextVar[tuple[ConsistencyToken, ...]] = ContextVar("tokens", default=())

find_demand = _DEMAND.get
find_tokens = _TOKENS.get
"""Return the tokens of all `at_least` blocks around the current call."""


class demanding:  # noqa: N801  # used like a function; a generator would take several times as long
    """Make the reads of the block demand a position, or the primary."""

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
    """Make the reads of the block see every commit from before the token was made.

    In nested blocks the tokens of all blocks apply.
    """

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
    """The position of the last write of this process; thread safe."""

    def __init__(self, *, unknown_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin at position 0; after a write without a position it is unknown for `unknown_seconds`."""
        self._unknown_seconds = unknown_seconds
        self._clock = clock
        self._position: Position = 0
        self._unknown_until = float("-inf")
        self._lock = threading.Lock()

    def note(self, position: Position | None) -> None:
        """Note a commit; `position` is None if the position of the commit is unknown."""
        if position is None:
            self._unknown_until = self._clock() + self._unknown_seconds
        else:
            with self._lock:
                self._position = max(self._position, position)

    def reset_after_fork(self) -> None:
        """Create a new lock; the position of the parent's writes is kept."""
        self._lock = threading.Lock()

    def find_position(self) -> Position | None:
        """Return the position that a read must have seen, or None if it is unknown."""
        return None if self._clock() < self._unknown_until else self._position
