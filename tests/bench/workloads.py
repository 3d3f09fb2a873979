"""The workloads: what is called, how often, and what of it is measured.

Owns single calls and batches; the loads by many threads are in `mixed` and `stampede`. What
comes before the clock starts, such as filling or emptying a cache, is not measured.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import redis

from tests.bench.contenders.contender import Contender
from tests.bench.data import Choices

MARKET_SYMBOLS = 200
WARM_UP_CALLS = 10


class Stage(NamedTuple):
    """A contender whose turn it is, and what it is measured with."""

    contender: Contender
    redis: redis.Redis
    choices: Choices

    def empty_caches(self) -> None:
        """Empty Redis and what the contender keeps itself."""
        self.redis.flushdb()
        self.contender.forget()


Measure = Callable[[Stage], Mapping[str, float]]


def measure_warm_board(stage: Stage) -> Mapping[str, float]:
    """Read a board that is cached."""
    return _time_warm(stage, stage.contender.get_leaderboard)


def measure_cold_board(stage: Stage) -> Mapping[str, float]:
    """Read a board that is not cached."""
    return _time_cold(stage, stage.contender.get_leaderboard)


def measure_warm_portfolio(stage: Stage) -> Mapping[str, float]:
    """Read a portfolio that is cached."""
    [player] = stage.choices.pick_players(1)
    return _time_warm(stage, lambda: stage.contender.get_portfolio(player))


def measure_cold_portfolio(stage: Stage) -> Mapping[str, float]:
    """Read portfolios that are not cached."""
    players = iter(stage.choices.pick_players(stage.choices.scale.cold_calls + 1))
    return _time_cold(stage, lambda: stage.contender.get_portfolio(next(players)))


def measure_warm_market(stage: Stage) -> Mapping[str, float]:
    """Read the latest ticks of 200 symbols that are cached."""
    symbols = stage.choices.pick_symbols(MARKET_SYMBOLS)
    return _time_warm(stage, lambda: stage.contender.get_market(symbols))


def measure_cold_market(stage: Stage) -> Mapping[str, float]:
    """Read the latest ticks of 200 symbols that are not cached."""
    symbols = stage.choices.pick_symbols(MARKET_SYMBOLS)
    return _time_cold(stage, lambda: stage.contender.get_market(symbols))


def measure_batch_of(count: int) -> Measure:
    """Make the measurement of one batch update of `count` portfolios."""

    def measure(stage: Stage) -> Mapping[str, float]:
        stage.contender.update_portfolios(stage.choices.make_updates(10))
        updates = stage.choices.make_updates(count)
        seconds = _time(lambda: stage.contender.update_portfolios(updates))
        return {"seconds": seconds, "per_second": count / seconds}

    return measure


def measure_single_ticks(stage: Stage) -> Mapping[str, float]:
    """Insert ticks one by one."""
    count = stage.choices.scale.single_ticks
    warm_up, *ticks = stage.choices.make_ticks(count + 1)
    stage.contender.insert_tick(warm_up)
    seconds = statistics.median(_time_each(stage.contender.insert_tick, ticks))
    return {"seconds": seconds, "per_second": 1 / seconds}


def measure_bulk_ticks(stage: Stage) -> Mapping[str, float]:
    """Insert ticks at once."""
    count = stage.choices.scale.bulk_ticks
    stage.contender.insert_ticks(stage.choices.make_ticks(10))
    ticks = stage.choices.make_ticks(count)
    seconds = _time(lambda: stage.contender.insert_ticks(ticks))
    return {"seconds": seconds, "per_second": count / seconds}


def _time_warm(stage: Stage, call: Callable[[], object]) -> Mapping[str, float]:
    for _ in range(WARM_UP_CALLS):
        call()
    calls = range(stage.choices.scale.warm_calls)
    return {"seconds": statistics.median(_time_each(lambda _: call(), calls))}


def _time_cold(stage: Stage, call: Callable[[], object]) -> Mapping[str, float]:
    stage.empty_caches()
    call()
    found = []
    for _ in range(stage.choices.scale.cold_calls):
        stage.empty_caches()
        found.append(_time(call))
    return {"seconds": statistics.median(found)}


def _time_each(call: Callable[[Any], object], items: Iterable[Any]) -> list[float]:
    found = []
    for item in items:
        started = time.perf_counter()
        call(item)
        found.append(time.perf_counter() - started)
    return found


def _time(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
