"""The reads and writes of all processes, and the rules of coherence that every read must obey.

A register is one value that only one process writes, with ascending versions, so the order of its writes is
known. One cache key holds several registers of several writers. Times are monotonic and comparable across
processes.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

# How long the near cache of another process may return an old value: a dead feed is noticed within 2 s; the
# rest allows for a busy machine.
NEAR_BOUND_SECONDS = 2.5

Tier = Literal["near", "shared"]
Outcome = Literal["acknowledged", "refused", "unknown"]


class Read(NamedTuple):
    """A read, and the version of each register that it returned."""

    process: int
    start: float
    end: float
    tier: Tier
    seen: dict[str, int]


class Write(NamedTuple):
    """A write of one or more registers in one transaction.

    A `refused` write was rolled back, so no read may return it. The reply of an `unknown` write was lost.
    `is_pending`: its invalidation was still in the outbox when the write was acknowledged.
    """

    process: int
    start: float
    end: float
    versions: dict[str, int]
    outcome: Outcome
    is_pending: bool = False


class Flushed(NamedTuple):
    """The time at which the outbox of a process became empty."""

    process: int
    at: float


Event = Read | Write | Flushed


class History:
    """The events of all processes, in any order."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.events = list(events)

    def find_violations(self) -> list[str]:
        """Return a text for each rule that a read has violated."""
        writes = [event for event in self.events if isinstance(event, Write)]
        flushed = [event for event in self.events if isinstance(event, Flushed)]
        by_register: dict[str, list[Write]] = defaultdict(list)
        for write in writes:
            for register in write.versions:
                by_register[register].append(write)
        found: list[str] = []
        for read in self.events:
            if isinstance(read, Read):
                for register, version in read.seen.items():
                    found += _check(read, register, version, by_register[register], flushed)
        return found


def _check(
    read: Read, register: str, version: int, writes: Sequence[Write], flushed: Sequence[Flushed]
) -> Iterable[str]:
    origin = next((write for write in writes if write.versions[register] == version), None)
    description = (
        f"process {read.process} read {register} = {version} from the {read.tier} tier at {read.start:.3f}"
    )
    if origin is None or origin.start > read.end:
        yield f"{description}, which nobody had written"
    elif origin.outcome == "refused":
        yield f"{description}, which was rolled back"
    for write in writes:
        if write.versions[register] > version and write.outcome == "acknowledged":
            due = _find_due(read, write, flushed)
            if due < read.start:
                late = read.start - due
                yield f"{description}, {late:.3f} s after it had to see {write.versions[register]}"


def _find_due(read: Read, write: Write, flushed: Sequence[Flushed]) -> float:
    """Return the time from which a read must return the version of a write, or a later one."""
    if read.process == write.process:
        return write.end
    due = write.end
    if write.is_pending:
        # until the writer has flushed its outbox, other processes may read the old value from Redis
        flushed_at = [p.at for p in flushed if p.process == write.process and p.at >= write.end]
        due = min(flushed_at, default=float("inf"))
    return due + NEAR_BOUND_SECONDS if read.tier == "near" else due
