"""Many threads of one process read and write, and check each read immediately.

Owns the threads, the choice of calls and the check: a read that begins after a write has returned must show
this write or a later one. The rules are those of `tests.coherence.history`, but the load keeps no history, so
that it can run for hours. The versions are in a file that every process of a soak maps into its memory.
"""

import mmap
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from core import EnhancedDatabaseService
from core.errors import EchoMarketsError
from tests.coherence.history import NEAR_BOUND_SECONDS, Tier
from tests.coherence.registers import Game, read_registers, write_register

PLAYERS = 8
PORTFOLIOS = 3
REGISTERS = tuple(
    [f"score:{index}" for index in range(PLAYERS)] + [f"value:{index}" for index in range(PORTFOLIOS)]
)
# limits of the same leaderboard: each has its own cache key, and all depend on one version key
LIMITS = (10, 50, 100)
READS = (
    *(("leaderboard", limit) for limit in LIMITS),
    *(("portfolio", index) for index in range(PORTFOLIOS)),
)
WRITE_SHARE = 0.05
SNAPSHOT_SECONDS = 0.1
# maximum number of texts about stale reads and errors; further ones are only counted
MAX_EXAMPLES = 10

FIRST_VERSION = 1
_NUMBER_BYTES = 8


class Team(NamedTuple):
    """The number of processes of a soak, the threads of each process, and the number of this process."""

    processes: int
    threads: int
    process: int = 0


class Counts(NamedTuple):
    """The numbers of calls, errors and stale reads of a process, with some of these as texts."""

    reads: int
    writes: int
    errors: int
    stale: int
    examples: list[str]
    slowest_seconds: float = 0.0


class Ledger:
    """The last begun and the last acknowledged version of each register, shared by all processes."""

    def __init__(self, path: Path) -> None:
        size = 2 * len(REGISTERS) * _NUMBER_BYTES
        with path.open("r+b") as file:
            numbers = memoryview(mmap.mmap(file.fileno(), size)).cast("q")
        self.begun = numbers[: len(REGISTERS)]
        self.acknowledged = numbers[len(REGISTERS) :]

    @staticmethod
    def create(path: Path) -> "Ledger":
        """Create the file for a new game, in which each register has its first version."""
        path.write_bytes(bytes(2 * len(REGISTERS) * _NUMBER_BYTES))
        ledger = Ledger(path)
        for index in range(len(REGISTERS)):
            ledger.begun[index] = ledger.acknowledged[index] = FIRST_VERSION
        return ledger


class Load:
    """The threads of one process, which read and write one game."""

    def __init__(
        self,
        service: EnhancedDatabaseService,
        game: Game,
        ledger: Ledger,
        team: Team,
        *,
        read_with_tier: Callable[[Callable[[], dict[str, int]]], tuple[dict[str, int], Tier]],
    ) -> None:
        """Prepare the load; `read_with_tier` calls a read and returns its result with the cache tier."""
        self._service = service
        self._game = game
        self._ledger = ledger
        self._team = team
        self._read_with_tier = read_with_tier
        self._indexes = {register: index for index, register in enumerate(REGISTERS)}
        writers = team.processes * team.threads
        self._owners = [index % writers for index in range(len(REGISTERS))]
        self._write_share = WRITE_SHARE * writers / len(set(self._owners))
        # times, with the acknowledged versions at each; the first entry is old enough for every read
        self._past: list[tuple[float, list[int]]] = [(float("-inf"), [FIRST_VERSION] * len(REGISTERS))]
        self._lock = threading.Lock()
        self._counts = Counts(0, 0, 0, 0, [])
        self._is_stopping = False

    def stop(self) -> None:
        """Let the threads end before the time of `run` is over."""
        self._is_stopping = True

    def run(self, seconds: float) -> Counts:
        """Read and write in every thread for `seconds`; return the counts."""
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._work, args=(number, end)) for number in range(self._team.threads)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self._past.append((time.monotonic(), self._ledger.acknowledged.tolist()))
            # no read needs entries before this one
            while len(self._past) > 1 and self._past[1][0] < time.monotonic() - 2 * NEAR_BOUND_SECONDS:
                del self._past[0]
            time.sleep(SNAPSHOT_SECONDS)
        for thread in threads:
            thread.join()
        return self._counts

    def _work(self, number: int, end: float) -> None:
        writer = self._team.process * self._team.threads + number
        own = [index for index, owner in enumerate(self._owners) if owner == writer]
        draw = random.Random(writer)
        reads = writes = errors = stale = 0
        slowest = 0.0
        examples: list[str] = []
        while time.monotonic() < end and not self._is_stopping:
            began = time.monotonic()
            is_write = bool(own) and draw.random() < self._write_share
            try:
                if is_write:
                    self._write(draw.choice(own))
                else:
                    found = self._read(*draw.choice(READS))
            except EchoMarketsError as error:
                errors += 1
                examples.append(f"process {self._team.process}: {error}")
                continue
            slowest = max(slowest, time.monotonic() - began)
            if is_write:
                writes += 1
                continue
            reads += 1
            stale += bool(found)
            examples += found
        with self._lock:
            counts = self._counts
            self._counts = Counts(
                counts.reads + reads,
                counts.writes + writes,
                counts.errors + errors,
                counts.stale + stale,
                (counts.examples + examples)[:MAX_EXAMPLES],
                max(counts.slowest_seconds, slowest),
            )

    def _write(self, index: int) -> None:
        version = self._ledger.begun[index] + 1
        self._ledger.begun[index] = version
        write_register(self._service, self._game, REGISTERS[index], version)
        self._ledger.acknowledged[index] = version

    def _read(self, what: str, argument: int) -> list[str]:
        """Read; return a text for each version that is older than the acknowledged one or was never begun."""
        start = time.monotonic()
        due = self._ledger.acknowledged.tolist()
        seen, tier = self._read_with_tier(lambda: read_registers(self._service, self._game, what, argument))
        begun = self._ledger.begun.tolist()
        if tier == "near":
            due = self._find_due_for_near(due, start)
        return [
            f"process {self._team.process} read {register} = {version} of {what} {argument} from the"
            f" {tier} tier, where {due[index]} had been written and {begun[index]} had been begun"
            for register, version in seen.items()
            if (index := self._indexes.get(register)) is not None
            and not due[index] <= version <= begun[index]
        ]

    def _find_due_for_near(self, due: list[int], start: float) -> list[int]:
        """Return the versions that a near-cache read must show: those of other processes may be 2.5 s old."""
        older = next(versions for at, versions in reversed(self._past) if at <= start - NEAR_BOUND_SECONDS)
        first = self._team.process * self._team.threads
        own = range(first, first + self._team.threads)
        return [due[n] if owner in own else older[n] for n, owner in enumerate(self._owners)]
