"""The mixed load: eight threads, 95 reads to 5 writes, active players by how much they are wanted.

Owns the threads and what counts as stale: a read that started after a write was acknowledged
and gave an older value. Every write of a player has a higher value than the one before, so
an answer says which write it is of. Source of the mix: YCSB, workload B.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from tests.bench.contenders.contender import Contender
from tests.bench.data import total_of
from tests.bench.figures import percentile
from tests.bench.workloads import Stage

THREADS = 8
WRITE_SHARE = 0.05
START_SECONDS = 60


class _Call(NamedTuple):
    """One call that a thread is to make."""

    player: UUID
    is_write: bool


class _Versions:
    """The last value of each player whose write was acknowledged; one writer a player at a time."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._guard = threading.Lock()
        self._locks: dict[UUID, threading.Lock] = {}
        self.acknowledged: dict[UUID, int] = {}

    def write(self, contender: Contender, player: UUID) -> float:
        """Write the next value; return the seconds that it took."""
        with self._guard:
            lock = self._locks.setdefault(player, threading.Lock())
        with lock:
            value = self.acknowledged.get(player, self._first) + 1
            started = time.perf_counter()
            contender.update_portfolio(player, Decimal(value))
            seconds = time.perf_counter() - started
            self.acknowledged[player] = value
        return seconds


class _Outcome(NamedTuple):
    """What one thread saw."""

    seconds: list[float]
    stale: list[UUID]
    reads: list[None]


def measure_mixed(stage: Stage) -> Mapping[str, float]:
    """Run the load after one read of every active player; then look for keys that stay stale."""
    count = stage.choices.scale.mixed_calls
    players = stage.choices.pick_wanted(count)
    flags = stage.choices.pick_flags(count, WRITE_SHARE)
    calls = [_Call(*pair) for pair in zip(players, flags, strict=True)]
    # above every value that earlier turns wrote
    versions = _Versions(next(stage.choices.numbers) * 1_000_000)
    stage.empty_caches()
    for player in stage.choices.active:
        stage.contender.get_portfolio(player)
    outcomes, elapsed = _run(stage.contender, calls, versions)
    seconds = [value for outcome in outcomes for value in outcome.seconds]
    reads = sum(len(outcome.reads) for outcome in outcomes)
    return {
        "seconds": elapsed,
        "per_second": count / elapsed,
        "p50": percentile(seconds, 50),
        "p99": percentile(seconds, 99),
        "stale_per_100000": sum(len(outcome.stale) for outcome in outcomes) * 100_000 / reads,
        "keys_left_stale": _count_left(stage.contender, versions),
    }


def _run(contender: Contender, calls: Sequence[_Call], versions: _Versions) -> tuple[list[_Outcome], float]:
    outcomes = [_Outcome([], [], []) for _ in range(THREADS)]
    barrier = threading.Barrier(THREADS + 1)

    def work(number: int) -> None:
        barrier.wait(START_SECONDS)
        for call in calls[number::THREADS]:
            _make(contender, call, versions, outcomes[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    barrier.wait(START_SECONDS)
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return outcomes, time.perf_counter() - started


def _make(contender: Contender, call: _Call, versions: _Versions, outcome: _Outcome) -> None:
    if call.is_write:
        outcome.seconds.append(versions.write(contender, call.player))
        return
    known = versions.acknowledged.get(call.player, 0)
    started = time.perf_counter()
    portfolio = contender.get_portfolio(call.player)
    outcome.seconds.append(time.perf_counter() - started)
    outcome.reads.append(None)
    if known and total_of(portfolio, "total_value") < known:
        outcome.stale.append(call.player)


def _count_left(contender: Contender, versions: _Versions) -> float:
    """Return how many of 100 keys that were written give an old value when all is over."""
    written = versions.acknowledged
    left = sum(
        total_of(contender.get_portfolio(player), "total_value") != value for player, value in written.items()
    )
    return 100 * left / max(1, len(written))
