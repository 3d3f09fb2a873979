"""What happened in all processes, and whether it may have happened.

Owns the rules of coherence. A register is one value that one process alone writes, with
versions that only grow, so the order of its writes needs no guess; one cache key holds
several registers of several writers. Times are monotonic, comparable across processes.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

# What another process's near cache answers may lag: a dead feed is noticed within 2 s, and a
# busy machine schedules the thread that notices it a little later.
NEAR_BOUND_SECONDS = 2.5

Tier = Literal["near", "shared"]
Outcome = Literal["acknowledged", "refused", "unknown"]


class Read(NamedTuple):
    """A read and the version of each register that it saw."""

    process: int
    start: float
    end: float
    tier: Tier
    seen: dict[str, int]


class Write(NamedTuple):
    """A write of some registers at once.

    Refused: rolled back, so nobody may ever see it. Unknown: its answer was lost. Pending: Redis
    could not be told of it by the time it was acknowledged.
    """

    process: int
    start: float
    end: float
    versions: dict[str, int]
    outcome: Outcome
    is_pending: bool = False


class Flushed(NamedTuple):
    """The moment at which the outbox of a process became empty."""

    process: int
    at: float


Event = Read | Write | Flushed


class History:
    """The events of all processes, in any order."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.events = list(events)

    def find_violations(self) -> list[str]:
        """Return what must not have happened, in words."""
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
    said = f"process {read.process} read {register} = {version} from the {read.tier} tier at {read.start:.3f}"
    if origin is None or origin.start > read.end:
        yield f"{said}, which nobody had written"
    elif origin.outcome == "refused":
        yield f"{said}, which was rolled back"
    for write in writes:
        if write.versions[register] > version and write.outcome == "acknowledged":
            due = _find_due(read, write, flushed)
            if due < read.start:
                yield f"{said}, {read.start - due:.3f} s after it had to see {write.versions[register]}"


def _find_due(read: Read, write: Write, flushed: Sequence[Flushed]) -> float:
    """Return from when on a read must see a write."""
    if read.process == write.process:
        return write.end
    due = write.end
    if write.is_pending:
        # Redis did not answer the writer; others may read what it has until the writer has told it
        flushed_at = [p.at for p in flushed if p.process == write.process and p.at >= write.end]
        due = min(flushed_at, default=float("inf"))
    return due + NEAR_BOUND_SECONDS if read.tier == "near" else due
