"""A service under fault, with a second one beside it as the view of another process.

Owns what is measured of each fault: what the caller gets, when it healed, whether an
acknowledged write was lost and whether anything stale was served afterwards.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from core import EnhancedDatabaseService
from core.errors import EchoMarketsError
from tests.patience import HEAL_SECONDS, stretch, wait_until

# Reads of both services after healing, each compared with the row.
CHECKS = 20


def name_of(error: EchoMarketsError) -> str:
    """Return the name that a caller can catch the error by."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "core.errors")


class FaultTable:
    """The fault table of a run, one row for each fault."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[str, float]] = {}

    def add(self, fault: str, seen: str, seconds: float) -> None:
        """Note a fault that lost nothing and left nothing stale; of several variants the slowest."""
        if fault not in self._rows or self._rows[fault][1] < seconds:
            self._rows[fault] = (seen, seconds)

    def __len__(self) -> int:
        """Return how many faults were tried."""
        return len(self._rows)

    def write(self, path: Path) -> None:
        """Write the table as Markdown."""
        head = [("fault", "caller sees", "healed within", "lost", "stale"), ("---",) * 5]
        rows = [
            (fault, seen, f"{seconds:.1f} s", "nothing", "nothing")
            for fault, (seen, seconds) in self._rows.items()
        ]
        lines = ["| " + " | ".join(row) + " |" for row in [*head, *sorted(rows)]]
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass
class Subject:
    """One profile, the service that writes it, another that reads it, and the row itself."""

    service: EnhancedDatabaseService
    other: EnhancedDatabaseService
    user_id: UUID
    read_row: Callable[[], str | None]
    table: FaultTable
    acknowledged: str = "start"
    # what an error left open: the row may be either
    unanswered: list[str] = field(default_factory=list)
    _number: int = 0

    def write(self) -> str:
        """Write a new name; return `answers` or the error's name."""
        self._number += 1
        name = f"name {self._number}"
        try:
            self.service.update_user_profile(self.user_id, name=name)
        except EchoMarketsError as error:
            self.unanswered.append(name)
            return name_of(error)
        self.acknowledged = name
        self.unanswered.clear()
        return "answers"

    def read(self) -> str:
        """Read the name; return `answers` or the error's name. The own write is seen at once."""
        try:
            user = self.service.get_user_by_id(self.user_id)
        except EchoMarketsError as error:
            return name_of(error)
        if self.service.stale_seconds() is not None:
            return "the last known value, marked stale"
        assert user.name in {self.acknowledged, *self.unanswered}, f"{user.name} is stale"
        return "answers"

    def use(self, *, rounds: int = 3) -> str:
        """Read, write and read again; say what the caller got and how long the slowest call took."""
        reads, writes, slowest = set[str](), set[str](), 0.0
        for _ in range(rounds):
            for outcomes, call in ((reads, self.read), (writes, self.write), (reads, self.read)):
                started = time.monotonic()
                outcomes.add(call())
                slowest = max(slowest, time.monotonic() - started)
        said = f"reads: {', '.join(sorted(reads))}; writes: {', '.join(sorted(writes))}"
        return f"{said}; slowest call {slowest:.2f} s"

    def is_healthy(self) -> bool:
        """Say whether both services answer from the cache, near cache included."""
        for service in (self.service, self.other):
            before = service.cache_stats().caches["user"].near_hits
            try:
                service.get_user_by_id(self.user_id)
                service.get_user_by_id(self.user_id)
            except EchoMarketsError:
                return False
            after = service.cache_stats()
            if after.state != "enabled" or after.caches["user"].near_hits == before:
                return False
        return True

    def finish(self, fault: str, seen: str, *, is_fenced: bool = False) -> None:
        """Assert that all is well within 5 s; note the row of the table.

        `is_fenced`: after an ambiguous commit the key is read from the database for a while.
        """
        # before any write: what is stale now must not be hidden by an invalidation of ours
        row = self.read_row()
        assert row in {self.acknowledged, *self.unanswered}, f"{row}: an acknowledged write is lost"
        # one clock from the end of the fault, the checks included: it heals while they run, so
        # that leaving them out would flatter it
        started = time.monotonic()
        wait_until(self._agrees, "both services read the row")
        if not is_fenced:
            wait_until(self.is_healthy, "both services answer from the cache")
        for _ in range(CHECKS):
            assert self._agrees(), "a stale value was served after healing"
        wait_until(lambda: self.write() == "answers", "writes work")
        wait_until(self._agrees, "both services read what was written last")
        seconds = time.monotonic() - started
        assert seconds < stretch(HEAL_SECONDS), f"{fault} took {seconds:.1f} s to heal"
        assert self.service.pool_stats().pool_in_use == 0
        self.table.add(fault, seen, seconds)

    def _agrees(self) -> bool:
        row = self.read_row()
        names = set()
        for service in (self.service, self.other):
            try:
                names.add(service.get_user_by_id(self.user_id).name)
            except EchoMarketsError:
                return False
            if service.stale_seconds() is not None:
                return False
        return names == {row}
