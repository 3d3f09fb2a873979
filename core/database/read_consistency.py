"""LSNs, which are positions in the write-ahead log. They say which commits a read on a replica must see.

Owns the statements that ask a primary for its LSN, the LSN of the last write of this process, the LSN that
the reads of a block require, and the consistency token, which carries an LSN to another process.
`core.database.replica` checks whether a replica has replayed an LSN. Opens no connection.

After a COMMIT the server is asked for an LSN at or after the commit. A replica that has replayed the log
up to this LSN shows the commit. The LSN is that of the last flush: a server sends only flushed
records to replicas, and may flush the end of the log seconds later. With `synchronous_commit = off` COMMIT
does not wait for a flush, so the LSN is the end of the log.
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

Lsn = int
"""An LSN as an integer: the number of bytes from the beginning of the write-ahead log."""

# The LSN of a primary. NULL on a server in recovery, where the `pg_current_wal` functions raise an
# error.
LSN: Final = """CASE WHEN pg_is_in_recovery() THEN NULL
    WHEN current_setting('synchronous_commit') = 'off' THEN pg_current_wal_insert_lsn()
    ELSE pg_current_wal_flush_lsn() END"""
SELECT_LSN: Final = f"SELECT {LSN}"
# Selects an LSN, and the system identifier and timeline of the write-ahead log to which the LSN belongs. A
# promoted server has a new timeline. The first eight digits of the name of a WAL segment are the timeline.
SELECT_LOG_TIMELINE: Final = f"""
    SELECT {LSN}, system_identifier::text,
           CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_flush_lsn()), 8) END
    FROM pg_control_system()"""  # noqa: S608  # a constant
_TOKEN: Final = re.compile(r"(\d{1,20})\.([0-9A-F]{8})\.([0-9A-F]{1,16})", re.ASCII)


class LogTimeline(NamedTuple):
    """A write-ahead log: a system identifier and a timeline. Only LSNs in the same log can be compared.

    `core.failover.Timeline` also identifies the database and the schema.
    """

    system: str
    number: int

    def is_of(self, known: Timeline | None) -> bool:
        """Return whether this is the write-ahead log of `known`, the timeline of the pool's connections."""
        return (
            known is not None and known.database.startswith(f"{self.system}.") and known.number == self.number
        )


class ConsistencyToken(NamedTuple):
    """An LSN in the write-ahead log of a primary. Its text form can be sent to other processes."""

    log_timeline: LogTimeline
    lsn: Lsn

    def __str__(self) -> str:
        return f"{self.log_timeline.system}.{self.log_timeline.number:08X}.{self.lsn:X}"


def read_token(execute_sql: Callable[..., Any]) -> ConsistencyToken | None:
    """Return a consistency token for all commits up to now, or None if the server is not a primary."""
    [row] = execute_sql(SELECT_LOG_TIMELINE).fetchall()
    return None if row[0] is None else ConsistencyToken(parse_log_timeline(row), parse_lsn(row[0]))


def parse_log_timeline(row: Sequence[Any]) -> LogTimeline:
    """Return the log timeline in a row of `SELECT_LOG_TIMELINE`. The row must come from a primary."""
    return LogTimeline(row[1], int(row[2], 16))


def parse_token(text: object) -> ConsistencyToken | None:
    """Return the consistency token in a text, or None if the text is not a consistency token."""
    found = _TOKEN.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    return ConsistencyToken(LogTimeline(found[1], int(found[2], 16)), int(found[3], 16))


def parse_lsn(text: str) -> Lsn:
    """Return the LSN in PostgreSQL's text form, such as `16/B374D848`, as an integer."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def format_lsn(lsn: Lsn) -> str:
    """Return an LSN in PostgreSQL's text form, such as `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


class Demand(NamedTuple):
    """The reads of a block must see the commits up to `lsn`. If `lsn` is None, they run on the primary.

    `reason` is the metric label of the reads that run on the primary because `lsn` is None.
    """

    lsn: Lsn | None
    reason: ReadReason = "unknown"


_ON_PRIMARY: Final = Demand(None, "current")
# The demand of the innermost `demanding` block. Outside of such a block it is None, and reads must see the
# writes of this process.
_DEMAND: ContextVar[Demand | None] = ContextVar("demand", default=None)
_TOKENS: ContextVar[tuple[ConsistencyToken, ...]] = ContextVar("tokens", default=())

find_demand = _DEMAND.get
find_tokens = _TOKENS.get
"""Return the consistency tokens of all `at_least` blocks around the current call."""


class demanding:  # noqa: N801  # used like a function; a generator would take several times as long
    """A `with` block whose reads must see the commits up to the LSN of `demand`."""

    __slots__ = ("_before", "_demand")

    def __init__(self, demand: Demand) -> None:
        self._demand = demand

    def __enter__(self) -> None:
        self._before: Token[Demand | None] = _DEMAND.set(self._demand)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _DEMAND.reset(self._before)


def reads_on_primary() -> demanding:
    """Make the reads of the block run on the primary. For reads whose result decides what is written."""
    return demanding(_ON_PRIMARY)


class at_least:  # noqa: N801  # as above
    """Make the reads of the block see every commit from before `token` was made.

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
    """The LSN of the last commit of this process; thread safe."""

    def __init__(self, *, unknown_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin at LSN 0.

        After a commit whose LSN is unknown, `find_lsn` returns None for `unknown_seconds`.
        """
        self._unknown_seconds = unknown_seconds
        self._clock = clock
        self._lsn: Lsn = 0
        self._unknown_until = float("-inf")
        self._lock = threading.Lock()

    def record(self, lsn: Lsn | None) -> None:
        """Record a commit of this process. `lsn` is None if the LSN of the commit is unknown."""
        if lsn is None:
            self._unknown_until = self._clock() + self._unknown_seconds
        else:
            with self._lock:
                self._lsn = max(self._lsn, lsn)

    def reset_after_fork(self) -> None:
        """Create a new lock. The LSN of the parent's last commit is kept."""
        self._lock = threading.Lock()

    def find_lsn(self) -> Lsn | None:
        """Return the LSN of the last commit (0 before the first one), or None if it is unknown."""
        return None if self._clock() < self._unknown_until else self._lsn
