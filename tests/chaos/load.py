"""One writer and several readers that use a running stack and count lost writes and stale reads.

Owns the threads and the counts; `ledger` has the rules. The first reader shares the service of the writer and
must see each write at once. Each other reader has its own service, like another process.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import uuid4

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import EchoMarketsError
from tests.chaos.ledger import Ledger
from tests.coherence.mutants import MUTANTS
from tests.coherence.registers import (
    DAY,
    FIRST_TICK,
    Game,
    list_registers,
    read_registers,
    write_register,
)

PLAYERS = 4
# Shorter than a fault, so that calls to a paused server fail while the fault lasts.
TIMEOUTS = {
    "database_query_timeout": 2_000,
    "database_connect_timeout": 2_000,
    "database_pool_timeout": 2_000,
}
# Settings of the reader without a near cache, which reads from Redis each time.
WITHOUT_NEAR = {"near_cache_size": 0}
WITHOUT_CACHE = {"enable_redis_cache": False}
PAUSE_SECONDS = 0.002  # leaves CPU time to the stack
MAX_EXAMPLES = 10  # maximum number of texts per kind of problem; further problems are only counted

READS = (
    *(("user", index) for index in range(PLAYERS)),
    *(("portfolio", index) for index in range(PLAYERS)),
    ("leaderboard", 10),
    ("prices", None),
)
# The ticks of the load are before this time. A simulator that is started again also writes ticks of these
# symbols, at the current time.
LAST_TICK = FIRST_TICK + timedelta(days=1)


class Figures(NamedTuple):
    """The counts of a load since its start, or between two times."""

    writes: int = 0
    reads: int = 0
    refused: int = 0
    declared_old: int = 0
    stale: int = 0
    lost: int = 0

    def since(self, before: "Figures") -> "Figures":
        """Return the counts since `before`."""
        return Figures(*(now - then for now, then in zip(self, before, strict=True)))


class Load:
    """The threads of the writer and the readers, their counts, and the problems as texts."""

    def __init__(
        self,
        writer: EnhancedDatabaseService,
        others: tuple[EnhancedDatabaseService, ...],
        uncached: EnhancedDatabaseService,
        game: Game,
    ) -> None:
        self.problems: list[str] = []
        self.ledger = Ledger(list_registers(game))
        self._writer, self._uncached, self._game = writer, uncached, game
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._round_functions: dict[str, Callable[[], bool]] = {
            "writer": self._write_round,
            "own reader": partial(self._read_round, writer, self.ledger.get_acknowledged),
            **{
                f"reader {number}": partial(self._read_round, service, self.ledger.get_visible)
                for number, service in enumerate(others)
            },
        }
        # thread -> start time of its last round in which every call was answered
        self._answered_rounds: dict[str, float] = {}
        self._thread_errors: list[BaseException] = []

    @property
    def figures(self) -> Figures:
        """The counts since the start."""
        with self._lock:
            return Figures(**self._counts)

    def has_recovered(self, *, since: float) -> bool:
        """Return whether each thread began a round after `since` in which every call was answered."""
        self._raise_thread_error()
        begun = [self._answered_rounds.get(name, float("-inf")) for name in self._round_functions]
        return min(begun) >= since

    def can_check_rows(self) -> bool:
        """Return whether the service that `check_rows` uses can read from PostgreSQL."""
        try:
            self._uncached.get_user_by_id(self._game.users[0])
        except EchoMarketsError:
            return False
        return True

    def check_rows(self) -> None:
        """Count the acknowledged writes that are not stored; raises `EchoMarketsError` if a read fails."""
        due = self.ledger.get_acknowledged()
        stored: dict[str, int] = {}
        for what, argument in READS:
            stored |= read(self._uncached, self._game, what, argument)
        rows = {f"price:{index}": self._read_prices(index) for index in range(PLAYERS)}
        in_ledger = {register: version for register, version in stored.items() if register in due}
        self._record("lost", self.ledger.list_lost(due, stored=in_ledger, rows=rows))

    def _read_prices(self, index: int) -> set[int]:
        symbol = self._game.symbol(index)
        ticks = self._uncached.stream_market_ticks(symbol, start=FIRST_TICK, end=LAST_TICK)
        return {int(tick.price) for tick in ticks}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the threads for the length of a `with` block."""
        threads = [
            threading.Thread(target=self._repeat, args=(name, run_round), name=name)
            for name, run_round in self._round_functions.items()
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()
        self._raise_thread_error()

    def _raise_thread_error(self) -> None:
        if self._thread_errors:
            raise self._thread_errors[0]

    def _repeat(self, name: str, run_round: Callable[[], bool]) -> None:
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                if run_round():
                    self._answered_rounds[name] = began
        except BaseException as error:
            # the main thread raises the error again; otherwise the end of this thread would not be noticed
            self._thread_errors.append(error)

    def _write_round(self) -> bool:
        """Write each register once; return whether all writes were acknowledged."""
        is_answered = True
        for register in self.ledger.begun:
            if self._stopping.is_set():
                return False
            version = self.ledger.begin(register)
            try:
                write_register(self._writer, self._game, register, version)
            except EchoMarketsError:
                # the write may be committed, but only an acknowledged write must be stored
                self._count("refused")
                is_answered = False
            else:
                self.ledger.acknowledge(register, version)
                self._count("writes")
            if not self._count_pending_invalidations():
                self.ledger.record_invalidated()
            time.sleep(PAUSE_SECONDS)
        return is_answered

    def _count_pending_invalidations(self) -> int:
        """Return the number of invalidations in the outbox of the writer."""
        cache: Any = self._writer._cache
        return len(cache._shared.guard.outbox)

    def _read_round(
        self, service: EnhancedDatabaseService, find_due: Callable[[], Mapping[str, int]]
    ) -> bool:
        """Read each value once; return whether every call was answered, and none with a fail-safe value."""
        is_answered = True
        for what, argument in READS:
            if self._stopping.is_set():
                return False
            due = find_due()
            try:
                seen = read(service, self._game, what, argument)
            except EchoMarketsError:
                self._count("refused")
                is_answered = False
                continue
            finally:
                time.sleep(PAUSE_SECONDS)
            self._count("reads")
            stale = self.ledger.list_stale(seen, due)
            # while PostgreSQL is down, a service that has not written serves fail-safe values and reports
            # their age
            if service.stale_seconds() is not None and service is not self._writer:
                self._count("declared_old")
                is_answered = False
            else:
                self._record("stale", stale[:1])
        return is_answered

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _record(self, what: str, found: list[str]) -> None:
        with self._lock:
            self.problems += found[: max(0, MAX_EXAMPLES - self._counts[what])]
            self._counts[what] += len(found)


@contextmanager
def run_load(settings: Settings, *, mutant: str | None = None) -> Iterator[Load]:
    """Create a game, write and read it for the length of a `with` block, and delete it.

    `mutant` names a function of `MUTANTS`, which removes a safeguard from the service of the writer.
    """
    with_timeouts = settings.model_copy(update=TIMEOUTS)
    with ExitStack() as stack:

        def open_with(changes: Mapping[str, Any]) -> EnhancedDatabaseService:
            return stack.enter_context(open_service(with_timeouts.model_copy(update=changes)))

        # without the short timeouts: this service creates the game, compares the rows and deletes the game
        uncached = stack.enter_context(open_service(settings.model_copy(update=WITHOUT_CACHE)))
        writer = open_with({})
        others = (open_with({}), open_with(WITHOUT_NEAR))
        if mutant is not None:
            MUTANTS[mutant](writer)
        game = create_game(uncached)
        load = Load(writer, others, uncached, game)
        try:
            with load.running():
                yield load
        finally:
            remove_game(uncached, game)


def read(service: EnhancedDatabaseService, game: Game, what: str, argument: Any) -> dict[str, int]:
    """Read and return the version of each register; ignore prices that the load has not written."""
    if what != "prices":
        return read_registers(service, game, what, argument)
    symbols = {game.symbol(index): index for index in range(PLAYERS)}
    ticks = service.get_latest_market_data(list(symbols))
    return {f"price:{symbols[tick.symbol]}": int(tick.price) for tick in ticks if tick.timestamp < LAST_TICK}


def create_game(service: EnhancedDatabaseService) -> Game:
    """Create players, and write the first version of every register."""
    name = f"g{uuid4().hex[:8]}"
    game = Game(name, tuple(service.create_user(username=f"{name}-{n}-1").id for n in range(PLAYERS)))
    for user_id in game.users:
        service.get_current_portfolio(user_id, DAY)
    for register in list_registers(game):
        write_register(service, game, register, 1)
    return game


def remove_game(service: EnhancedDatabaseService, game: Game) -> None:
    """Delete the players of a game and the ticks of its symbols."""
    for index, user_id in enumerate(game.users):
        service.delete_user(user_id)
        service.delete_market_ticks(game.symbol(index))
