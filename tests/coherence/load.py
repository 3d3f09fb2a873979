"""Reads and writes of many threads in one process, each read checked at once.

Owns the threads, the choice of calls and the check: a read that begins after a write has
returned shows that write or a later one. Keeps no history, so that it can run for hours.
Versions are in a file that every process of a soak maps into its memory. What may happen is
the same as in `tests.coherence.history`.
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
    [f"score:{place}" for place in range(PLAYERS)] + [f"value:{place}" for place in range(PORTFOLIOS)]
)
# one leaderboard under several keys, which depend on one version
LIMITS = (10, 50, 100)
READS = (
    *(("leaderboard", limit) for limit in LIMITS),
    *(("portfolio", place) for place in range(PORTFOLIOS)),
)
WRITE_SHARE = 0.05
SNAPSHOT_SECONDS = 0.1
# more say no more than these
EXAMPLES = 10

FIRST_VERSION = 1
_NUMBER_BYTES = 8


class Team(NamedTuple):
    """The processes of a soak, the threads of each, and which process this one is."""

    processes: int
    threads: int
    process: int = 0


class Counts(NamedTuple):
    """How many calls a process made, how many reads were stale, and some of those in words."""

    reads: int
    writes: int
    errors: int
    stale: int
    examples: list[str]
    slowest_seconds: float = 0.0


class Ledger:
    """The version of each register whose write has begun, and the one whose write has returned."""

    def __init__(self, path: Path) -> None:
        size = 2 * len(REGISTERS) * _NUMBER_BYTES
        with path.open("r+b") as file:
            numbers = memoryview(mmap.mmap(file.fileno(), size)).cast("q")
        self.begun = numbers[: len(REGISTERS)]
        self.acknowledged = numbers[len(REGISTERS) :]

    @staticmethod
    def create(path: Path) -> "Ledger":
        """Create the file of a new game, which has written the first version of each register."""
        path.write_bytes(bytes(2 * len(REGISTERS) * _NUMBER_BYTES))
        ledger = Ledger(path)
        for place in range(len(REGISTERS)):
            ledger.begun[place] = ledger.acknowledged[place] = FIRST_VERSION
        return ledger


class Load:
    """The load of one process."""

    def __init__(
        self,
        service: EnhancedDatabaseService,
        game: Game,
        ledger: Ledger,
        team: Team,
        *,
        read_with_tier: Callable[[Callable[[], dict[str, int]]], tuple[dict[str, int], Tier]],
    ) -> None:
        """Prepare; `read_with_tier` makes a read and returns its answer with the tier that gave it."""
        self._service = service
        self._game = game
        self._ledger = ledger
        self._team = team
        self._read_with_tier = read_with_tier
        self._places = {register: place for place, register in enumerate(REGISTERS)}
        writers = team.processes * team.threads
        self._owners = [place % writers for place in range(len(REGISTERS))]
        self._write_share = WRITE_SHARE * writers / len(set(self._owners))
        # what had been acknowledged when; the first is always there
        self._past: list[tuple[float, list[int]]] = [(float("-inf"), [FIRST_VERSION] * len(REGISTERS))]
        self._lock = threading.Lock()
        self._counts = Counts(0, 0, 0, 0, [])
        self._is_stopping = False

    def stop(self) -> None:
        """End before the time is over."""
        self._is_stopping = True

    def run(self, seconds: float) -> Counts:
        """Read and write for so many seconds in every thread; return what happened."""
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._work, args=(number, end)) for number in range(self._team.threads)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self._past.append((time.monotonic(), self._ledger.acknowledged.tolist()))
            # those before it are needed no more
            while len(self._past) > 1 and self._past[1][0] < time.monotonic() - 2 * NEAR_BOUND_SECONDS:
                del self._past[0]
            time.sleep(SNAPSHOT_SECONDS)
        for thread in threads:
            thread.join()
        return self._counts

    def _work(self, number: int, end: float) -> None:
        writer = self._team.process * self._team.threads + number
        own = [place for place, owner in enumerate(self._owners) if owner == writer]
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
            known = self._counts
            self._counts = Counts(
                known.reads + reads,
                known.writes + writes,
                known.errors + errors,
                known.stale + stale,
                (known.examples + examples)[:EXAMPLES],
                max(known.slowest_seconds, slowest),
            )

    def _write(self, place: int) -> None:
        version = self._ledger.begun[place] + 1
        self._ledger.begun[place] = version
        write_register(self._service, self._game, REGISTERS[place], version)
        self._ledger.acknowledged[place] = version

    def _read(self, what: str, argument: int) -> list[str]:
        """Read and return what is wrong with the answer, in words."""
        start = time.monotonic()
        due = self._ledger.acknowledged.tolist()
        seen, tier = self._read_with_tier(lambda: read_registers(self._service, self._game, what, argument))
        begun = self._ledger.begun.tolist()
        if tier == "near":
            due = self._allow_for_near(due, start)
        return [
            f"process {self._team.process} read {register} = {version} of {what} {argument} from the"
            f" {tier} tier, where {due[place]} had been written and {begun[place]} had been begun"
            for register, version in seen.items()
            if (place := self._places.get(register)) is not None and not due[place] <= version <= begun[place]
        ]

    def _allow_for_near(self, due: list[int], start: float) -> list[int]:
        """Return what a read from near must show: all own writes, and those of others after the bound."""
        heard = next(known for at, known in reversed(self._past) if at <= start - NEAR_BOUND_SECONDS)
        first = self._team.process * self._team.threads
        own = range(first, first + self._team.threads)
        return [due[n] if owner in own else heard[n] for n, owner in enumerate(self._owners)]
