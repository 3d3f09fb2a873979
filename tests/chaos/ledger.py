"""The versions that a writer has written, and the check of reads and stored rows against these versions.

Owns the rules. A register is one value with one writer and ascending versions. A read is stale if its version
is older than the version that the reader must see. If each version has its own row (prices), every lost write
is found; for every other register, only the loss of the newest write is found.
"""

import threading
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tests.coherence.history import NEAR_BOUND_SECONDS

FIRST_VERSION = 1


class Invalidated(NamedTuple):
    """The acknowledged version of each register at a time when no invalidation waited for Redis."""

    at: float
    versions: Mapping[str, int]


class Ledger:
    """The begun and acknowledged versions of each register; one thread writes, other threads read."""

    def __init__(self, registers: Iterable[str]) -> None:
        self.begun = dict.fromkeys(registers, FIRST_VERSION)
        self._acknowledged = {register: [FIRST_VERSION] for register in self.begun}
        self._invalidated = [Invalidated(float("-inf"), dict(self.begun))]
        self._lost: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def begin(self, register: str) -> int:
        """Begin the next version of a register and return it; the caller then writes this version."""
        self.begun[register] += 1
        return self.begun[register]

    def acknowledge(self, register: str, version: int) -> None:
        """Record a write that returned without an error."""
        self._acknowledged[register].append(version)

    def record_invalidated(self) -> None:
        """Record the acknowledged versions; the caller calls this while no invalidation waits for Redis."""
        now = time.monotonic()
        with self._lock:
            self._invalidated.append(Invalidated(now, self.get_acknowledged()))
            # `get_visible` never reads entries before this one
            while len(self._invalidated) > 1 and self._invalidated[1].at < now - 2 * NEAR_BOUND_SECONDS:
                del self._invalidated[0]

    def get_acknowledged(self) -> dict[str, int]:
        """Return the last acknowledged version of each register, which the process of the writer must see."""
        return {register: versions[-1] for register, versions in self._acknowledged.items()}

    def get_visible(self) -> Mapping[str, int]:
        """Return the version of each register that every process must see now."""
        latest = time.monotonic() - NEAR_BOUND_SECONDS
        with self._lock:
            return next(entry.versions for entry in reversed(self._invalidated) if entry.at <= latest)

    def list_stale(self, seen: Mapping[str, int], due: Mapping[str, int]) -> list[str]:
        """Return a text for each version in `seen` that is older than the one in `due` or was never begun."""
        return [
            f"{register} = {version} was read, where {due[register]} had been acknowledged"
            f" and {self.begun[register]} had been begun"
            for register, version in seen.items()
            if register in due and not due[register] <= version <= self.begun[register]
        ]

    def list_lost(
        self, due: Mapping[str, int], *, stored: Mapping[str, int], rows: Mapping[str, set[int]]
    ) -> list[str]:
        """Return a text for each acknowledged write that is not stored; each write is returned only once.

        `due` has the acknowledged versions from before the rows were read, `stored` the newest stored version
        of each register, and `rows` every stored version of the registers with one row per version.
        """
        missing = {
            (register, version)
            for register, found in rows.items()
            for version in self._acknowledged[register]
            if version <= due[register] and version not in found
        }
        missing |= {(name, due[name]) for name, version in stored.items() if version < due[name]}
        new = sorted(missing - self._lost)
        self._lost |= missing
        return [f"{register} = {version} was acknowledged and is not stored" for register, version in new]
