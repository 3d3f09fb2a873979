"""Reads and writes one profile during a fault, and checks both services after it.

Owns the measurements of each fault: what the caller gets, the seconds until everything works again, whether
an acknowledged write was lost, and whether a stale value was served afterwards.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from core import EnhancedDatabaseService
from core.errors import EchoMarketsError
from tests.patience import HEAL_SECONDS, stretch, wait_until

# Reads by each service after the fault, each compared with the row in PostgreSQL.
CHECKS = 20


def find_public_name(error: EchoMarketsError) -> str:
    """Return the name of the error's nearest public class, the one that a caller catches."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "core.errors")


class FaultTable:
    """The table of the faults of a test module, with one row for each fault."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[str, float]] = {}

    def add(self, fault: str, seen: str, seconds: float) -> None:
        """Add a fault without lost writes and stale reads; of several runs of a fault the slowest is kept."""
        if fault not in self._rows or self._rows[fault][1] < seconds:
            self._rows[fault] = (seen, seconds)

    def __len__(self) -> int:
        """Return the number of rows."""
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
class FaultProbe:
    """One profile and two services: `service` meets the fault, `other` stands for another process."""

    service: EnhancedDatabaseService
    other: EnhancedDatabaseService
    user_id: UUID
    read_row: Callable[[], str | None]
    table: FaultTable
    acknowledged: str = "start"
    # names whose write ended with an error: PostgreSQL may or may not have stored them
    unanswered: list[str] = field(default_factory=list)
    _number: int = 0

    def write(self) -> str:
        """Write a new name; return "answers" or the error's name."""
        self._number += 1
        name = f"name {self._number}"
        try:
            self.service.update_user_profile(self.user_id, name=name)
        except EchoMarketsError as error:
            self.unanswered.append(name)
            return find_public_name(error)
        self.acknowledged = name
        self.unanswered.clear()
        return "answers"

    def read(self) -> str:
        """Read the name; return "answers" or the error's name. Fail if the name is stale."""
        try:
            user = self.service.get_user_by_id(self.user_id)
        except EchoMarketsError as error:
            return find_public_name(error)
        if self.service.stale_seconds() is not None:
            return "the last known value, marked stale"
        assert user.name in {self.acknowledged, *self.unanswered}, f"{user.name} is stale"
        return "answers"

    def read_and_write(self, *, rounds: int = 3) -> str:
        """Read, write and read again, `rounds` times; return the outcomes and the slowest call's seconds."""
        reads, writes, slowest = set[str](), set[str](), 0.0
        for _ in range(rounds):
            for outcomes, call in ((reads, self.read), (writes, self.write), (reads, self.read)):
                started = time.monotonic()
                outcomes.add(call())
                slowest = max(slowest, time.monotonic() - started)
        outcomes_text = f"reads: {', '.join(sorted(reads))}; writes: {', '.join(sorted(writes))}"
        return f"{outcomes_text}; slowest call {slowest:.2f} s"

    def is_healthy(self) -> bool:
        """Return whether both services use Redis and answer from their near caches."""
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

    def assert_healed(self, fault: str, seen: str, *, is_fenced: bool = False) -> None:
        """Assert that both services work within 5 s without stale reads, and add the fault to the table.

        Pass `is_fenced` after a commit with an unknown outcome: its keys stay fenced and are not cached for a
        while.
        """
        # check before the next write, because its invalidation would hide a stale value
        row = self.read_row()
        assert row in {self.acknowledged, *self.unanswered}, f"{row}: an acknowledged write is lost"
        # the services still recover during the checks, so the measured time must include the checks
        started = time.monotonic()
        wait_until(self._reads_match_row, "both services read the row")
        if not is_fenced:
            wait_until(self.is_healthy, "both services answer from the cache")
        for _ in range(CHECKS):
            assert self._reads_match_row(), "a stale value was served after healing"
        wait_until(lambda: self.write() == "answers", "writes work")
        wait_until(self._reads_match_row, "both services read what was written last")
        seconds = time.monotonic() - started
        assert seconds < stretch(HEAL_SECONDS), f"{fault} took {seconds:.1f} s to heal"
        assert self.service.pool_stats().pool_in_use == 0
        self.table.add(fault, seen, seconds)

    def _reads_match_row(self) -> bool:
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
