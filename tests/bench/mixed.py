"""The mixed load: eight threads with 95 % reads and 5 % writes, skewed to hot keys, on empty caches.

Owns the threads and the definition of stale: a read is stale if it started after a write was acknowledged and
returned an older value. Each write of a portfolio or leaderboard has a higher value than all writes before,
so the value identifies the write. Source of the shares: YCSB, workload B; some of the hottest keys are
leaderboards.
"""

import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from tests.bench.contenders.contender import Contender
from tests.bench.data import CATEGORY, LIMITS, total_of
from tests.bench.figures import percentile
from tests.bench.workloads import Stage

THREADS = 8
WRITE_SHARE = 0.05
START_SECONDS = 60
# number of players whose scores one thread writes; no two threads write the same entry
PLAYERS_PER_THREAD = 50
# distance between the first values of two turns, so that a turn writes higher values than all earlier turns
VALUES_PER_TURN = 1_000_000


class _Call(NamedTuple):
    """One call; `key` is the player id of a portfolio or the limit of a leaderboard."""

    key: UUID | int
    is_write: bool


class _Versions:
    """The last acknowledged value of each key; two threads never write a portfolio at the same time."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._guard = threading.Lock()
        self._locks: dict[UUID, threading.Lock] = {}
        self._scores = itertools.count(first + 1)
        self.portfolios: dict[UUID, int] = {}
        self.score = 0

    def write_portfolio(self, contender: Contender, player: UUID) -> float:
        """Write the next value of a portfolio; return the seconds of the write."""
        with self._guard:
            lock = self._locks.setdefault(player, threading.Lock())
        with lock:
            value = self.portfolios.get(player, self._first) + 1
            started = time.perf_counter()
            contender.update_portfolio(player, Decimal(value))
            seconds = time.perf_counter() - started
            self.portfolios[player] = value
        return seconds

    def write_score(self, contender: Contender, player: UUID) -> float:
        """Write a score that is higher than all earlier scores; return the seconds of the write."""
        value = next(self._scores)
        started = time.perf_counter()
        contender.update_score(player, Decimal(value), CATEGORY)
        seconds = time.perf_counter() - started
        with self._guard:
            self.score = max(self.score, value)
        return seconds

    def get_acknowledged(self, key: UUID | int) -> int:
        """Return the last acknowledged value of a key, or 0."""
        return self.score if isinstance(key, int) else self.portfolios.get(key, 0)


class _Outcome(NamedTuple):
    """The results of a thread: the seconds of its calls, the keys of stale reads, and None per read."""

    seconds: list[float]
    stale: list[UUID | int]
    reads: list[None]


def measure_mixed(stage: Stage) -> Mapping[str, float]:
    """Run the load on empty caches, then count the written keys that still return an old value."""
    count = stage.choices.scale.mixed_calls
    keys = stage.choices.pick_keys(count)
    flags = stage.choices.pick_flags(count, WRITE_SHARE)
    calls = [_Call(*pair) for pair in zip(keys, flags, strict=True)]
    players = stage.choices.pick_players(THREADS * PLAYERS_PER_THREAD)
    versions = _Versions(next(stage.choices.numbers) * VALUES_PER_TURN)
    outcomes, elapsed = _run(stage, calls, versions, players)
    seconds = [value for outcome in outcomes for value in outcome.seconds]
    reads = sum(len(outcome.reads) for outcome in outcomes)
    return {
        "seconds": elapsed,
        "per_second": count / elapsed,
        "p50": percentile(seconds, 50),
        "p99": percentile(seconds, 99),
        "stale_per_100000": sum(len(outcome.stale) for outcome in outcomes) * 100_000 / reads,
        "keys_left_stale": _measure_left_stale(stage.contender, versions),
    }


def _run(
    stage: Stage, calls: Sequence[_Call], versions: _Versions, players: Sequence[UUID]
) -> tuple[list[_Outcome], float]:
    contender = stage.contender
    outcomes = [_Outcome([], [], []) for _ in range(THREADS)]
    barrier = threading.Barrier(THREADS + 1)

    def work(number: int) -> None:
        own = itertools.cycle(players[number::THREADS])
        # this opens a connection before the time is measured; `empty_caches` removes the cached value
        contender.get_portfolio(next(own))
        barrier.wait(START_SECONDS)
        barrier.wait(START_SECONDS)
        for call in calls[number::THREADS]:
            _run_call(contender, call, versions, next(own), outcomes[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    barrier.wait(START_SECONDS)
    stage.empty_caches()
    barrier.wait(START_SECONDS)
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return outcomes, time.perf_counter() - started


def _run_call(
    contender: Contender, call: _Call, versions: _Versions, scorer: UUID, outcome: _Outcome
) -> None:
    if call.is_write:
        if isinstance(call.key, int):
            outcome.seconds.append(versions.write_score(contender, scorer))
        else:
            outcome.seconds.append(versions.write_portfolio(contender, call.key))
        return
    acknowledged = versions.get_acknowledged(call.key)
    started = time.perf_counter()
    value = _read(contender, call.key)
    outcome.seconds.append(time.perf_counter() - started)
    outcome.reads.append(None)
    if acknowledged and value < acknowledged:
        outcome.stale.append(call.key)


def _read(contender: Contender, key: UUID | int) -> Decimal:
    if isinstance(key, int):
        return total_of(contender.get_leaderboard(key)[0], "score")
    return total_of(contender.get_portfolio(key), "total_value")


def _measure_left_stale(contender: Contender, versions: _Versions) -> float:
    """Return the percentage of written keys that still return an old value after the load."""
    written = dict(versions.portfolios) | (dict.fromkeys(LIMITS, versions.score) if versions.score else {})
    left = sum(_read(contender, key) != value for key, value in written.items())
    return 100 * left / max(1, len(written))
