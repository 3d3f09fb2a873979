"""One writer and several readers of a running stack, which count what they get.

Owns the threads and the counts; `ledger` judges the answers. Each reader has a service of its own, as another
process has, but the first, which shares the writer's and must see each write at once.
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
# Callers of a paused server get their error within a fault's length.
LIMITS = {"database_query_timeout": 2_000, "database_connect_timeout": 2_000, "database_pool_timeout": 2_000}
# A reader that asks Redis each time, beside those with a near cache.
WITHOUT_NEAR = {"near_cache_size": 0}
WITHOUT_CACHE = {"enable_redis_cache": False}
PAUSE_SECONDS = 0.002  # leaves the processors to the stack
EXAMPLES = 10  # of each kind; more say no more than these

READS = (
    *(("user", place) for place in range(PLAYERS)),
    *(("portfolio", place) for place in range(PLAYERS)),
    ("leaderboard", 10),
    ("prices", None),
)
# A simulator that starts anew goes on with every symbol, so with these too, today.
LAST_TICK = FIRST_TICK + timedelta(days=1)


class Figures(NamedTuple):
    """What happened so far, or in a part of the time."""

    writes: int = 0
    reads: int = 0
    refused: int = 0
    declared_old: int = 0
    stale: int = 0
    lost: int = 0

    def since(self, before: "Figures") -> "Figures":
        """Return what came after other figures."""
        return Figures(*(now - then for now, then in zip(self, before, strict=True)))


class Load:
    """The writer, its readers and what they found."""

    def __init__(
        self,
        writer: EnhancedDatabaseService,
        others: tuple[EnhancedDatabaseService, ...],
        plain: EnhancedDatabaseService,
        game: Game,
    ) -> None:
        self.problems: list[str] = []
        self.ledger = Ledger(list_registers(game))
        self._writer, self._plain, self._game = writer, plain, game
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._works: dict[str, Callable[[], bool]] = {
            "writer": self._write_round,
            "own reader": partial(self._read_round, writer, self.ledger.find_newest),
            **{
                f"reader {number}": partial(self._read_round, service, self.ledger.find_told)
                for number, service in enumerate(others)
            },
        }
        # when each thread last began a round in which every call was answered
        self._rounds: dict[str, float] = {}
        self._broken: list[BaseException] = []

    @property
    def figures(self) -> Figures:
        """What happened so far."""
        with self._lock:
            return Figures(**self._counts)

    def has_recovered(self, *, since: float) -> bool:
        """Say whether every call of every thread since a moment was answered, with no old value."""
        self._raise_broken()
        begun = [self._rounds.get(name, float("-inf")) for name in self._works]
        return min(begun) >= since

    def can_check_rows(self) -> bool:
        """Say whether the connection of `check_rows` answers."""
        try:
            self._plain.get_user_by_id(self._game.users[0])
        except EchoMarketsError:
            return False
        return True

    def check_rows(self) -> None:
        """Compare what is stored with what was acknowledged; raises `EchoMarketsError`."""
        due = self.ledger.find_newest()
        stored: dict[str, int] = {}
        for what, argument in READS:
            stored |= read(self._plain, self._game, what, argument)
        rows = {f"price:{place}": self._read_prices(place) for place in range(PLAYERS)}
        known = {register: version for register, version in stored.items() if register in due}
        self._note("lost", self.ledger.list_lost(due, stored=known, rows=rows))

    def _read_prices(self, place: int) -> set[int]:
        symbol = self._game.symbol(place)
        ticks = self._plain.stream_market_ticks(symbol, start=FIRST_TICK, end=LAST_TICK)
        return {int(tick.price) for tick in ticks}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write and read for the length of a `with` block."""
        threads = [
            threading.Thread(target=self._repeat, args=(name, work), name=name)
            for name, work in self._works.items()
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()
        self._raise_broken()

    def _raise_broken(self) -> None:
        if self._broken:
            raise self._broken[0]

    def _repeat(self, name: str, work: Callable[[], bool]) -> None:
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                if work():
                    self._rounds[name] = began
        except BaseException as error:
            # raised in the thread that waits: a reader that has ended would count nothing more
            self._broken.append(error)

    def _write_round(self) -> bool:
        """Write each register once; say whether all were acknowledged."""
        is_answered = True
        for register in self.ledger.begun:
            if self._stopping.is_set():
                return False
            version = self.ledger.begin(register)
            try:
                write_register(self._writer, self._game, register, version)
            except EchoMarketsError:
                # it may have been committed: what counts is what was acknowledged
                self._count("refused")
                is_answered = False
            else:
                self.ledger.acknowledge(register, version)
                self._count("writes")
            if not self._count_untold():
                self.ledger.note_told()
            time.sleep(PAUSE_SECONDS)
        return is_answered

    def _count_untold(self) -> int:
        """Return how many invalidations wait because Redis does not answer the writer."""
        cache: Any = self._writer._cache
        return len(cache._shared.guard.outbox)

    def _read_round(
        self, service: EnhancedDatabaseService, find_due: Callable[[], Mapping[str, int]]
    ) -> bool:
        """Read everything once; say whether every answer came and none was old."""
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
            # a process that did not write serves what it knew last while PostgreSQL is down, and says so
            if service.stale_seconds() is not None and service is not self._writer:
                self._count("declared_old")
                is_answered = False
            else:
                self._note("stale", stale[:1])
        return is_answered

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _note(self, what: str, found: list[str]) -> None:
        with self._lock:
            self._counts[what] += len(found)
            if self._counts[what] <= EXAMPLES:
                self.problems += found[:EXAMPLES]


@contextmanager
def run_load(settings: Settings, *, mutant: str | None = None) -> Iterator[Load]:
    """Write and read a game of its own for the length of a `with` block, and remove it.

    `mutant` names a safeguard that the writer lacks.
    """
    limited = settings.model_copy(update=LIMITS)
    with ExitStack() as stack:

        def open_with(changes: Mapping[str, Any]) -> EnhancedDatabaseService:
            return stack.enter_context(open_service(limited.model_copy(update=changes)))

        # patient: it prepares, compares and removes
        plain = stack.enter_context(open_service(settings.model_copy(update=WITHOUT_CACHE)))
        writer = open_with({})
        others = (open_with({}), open_with(WITHOUT_NEAR))
        if mutant is not None:
            MUTANTS[mutant](writer)
        game = create_game(plain)
        load = Load(writer, others, plain, game)
        try:
            with load.running():
                yield load
        finally:
            remove_game(plain, game)


def read(service: EnhancedDatabaseService, game: Game, what: str, argument: Any) -> dict[str, int]:
    """Return the versions that an answer shows, of prices those that the load has written."""
    if what != "prices":
        return read_registers(service, game, what, argument)
    symbols = {game.symbol(place): place for place in range(PLAYERS)}
    ticks = service.get_latest_market_data(list(symbols))
    return {f"price:{symbols[tick.symbol]}": int(tick.price) for tick in ticks if tick.timestamp < LAST_TICK}


def create_game(service: EnhancedDatabaseService) -> Game:
    """Create players and symbols; every register begins at the first version."""
    name = f"g{uuid4().hex[:8]}"
    game = Game(name, tuple(service.create_user(username=f"{name}-{n}-1").id for n in range(PLAYERS)))
    for user_id in game.users:
        service.get_current_portfolio(user_id, DAY)
    for register in list_registers(game):
        write_register(service, game, register, 1)
    return game


def remove_game(service: EnhancedDatabaseService, game: Game) -> None:
    """Leave the stack as it was."""
    for place, user_id in enumerate(game.users):
        service.delete_user(user_id)
        service.delete_market_ticks(game.symbol(place))
