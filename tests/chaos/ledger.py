"""What a writer began and what was acknowledged, and the judgement of reads and rows by it.

Owns the rules. A register has one writer and versions that only grow: an answer older than what must be seen
is stale, and so is nothing else. A register whose versions are rows of their own (prices) shows each
acknowledged write that is lost; the others show the newest.
"""

import threading
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tests.coherence.history import NEAR_BOUND_SECONDS

FIRST_VERSION = 1
# Own writes are seen at once, those of another process when the near cache has heard of them.
OWN, OTHERS = 0.0, NEAR_BOUND_SECONDS


class Known(NamedTuple):
    """The versions that Redis had been told of at a moment, by register."""

    at: float
    versions: Mapping[str, int]


class Ledger:
    """The versions of each register; one thread writes, others read."""

    def __init__(self, registers: Iterable[str]) -> None:
        self.begun = dict.fromkeys(registers, FIRST_VERSION)
        self._acknowledged = {register: [FIRST_VERSION] for register in self.begun}
        self._told = [Known(float("-inf"), dict(self.begun))]
        self._lost: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def begin(self, register: str) -> int:
        """Return the next version of a register, which is about to be written."""
        self.begun[register] += 1
        return self.begun[register]

    def acknowledge(self, register: str, version: int) -> None:
        """Note a write that returned."""
        self._acknowledged[register].append(version)

    def note_told(self) -> None:
        """Note that Redis has been told of every write up to now, so that every process must see it."""
        now = time.monotonic()
        with self._lock:
            self._told.append(Known(now, self.find_newest()))
            # those before the one that counts are needed no more
            while len(self._told) > 1 and self._told[1].at < now - 2 * OTHERS:
                del self._told[0]

    def find_newest(self) -> dict[str, int]:
        """Return the newest acknowledged version of each register: what its writer's process must read."""
        return {register: versions[-1] for register, versions in self._acknowledged.items()}

    def find_told(self) -> Mapping[str, int]:
        """Return what every process must read now."""
        heard = time.monotonic() - OTHERS
        with self._lock:
            return next(known.versions for known in reversed(self._told) if known.at <= heard)

    def list_stale(self, seen: Mapping[str, int], due: Mapping[str, int]) -> list[str]:
        """Return what is wrong with an answer, in words: older than what is due, or never written."""
        return [
            f"{register} = {version} was read, where {due[register]} had been acknowledged"
            f" and {self.begun[register]} had been begun"
            for register, version in seen.items()
            if register in due and not due[register] <= version <= self.begun[register]
        ]

    def list_lost(
        self, due: Mapping[str, int], *, stored: Mapping[str, int], rows: Mapping[str, set[int]]
    ) -> list[str]:
        """Return the acknowledged writes that are not stored, in words; each once in the ledger's life.

        `due` is from before the rows were read. `stored` has the newest version of each register, `rows`
        every version of those registers that keep them.
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
