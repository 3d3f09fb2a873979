"""The workloads: which calls a contender makes, how many, and which figures are measured.

Owns the workloads of single calls and batches, and of eight writers; `mixed` and `stampede` have the other
loads by many threads. The preparation of a call, such as emptying a cache, is not measured.
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import redis

from tests.bench.contenders.contender import Contender, GameContender
from tests.bench.data import SMALL_CATEGORY, Choices, player_id, quest_id
from tests.bench.figures import percentile

T = TypeVar("T")

MARKET_SYMBOLS = 200
WRITERS = 8
START_SECONDS = 60
WARM_UP_CALLS = 10


class WorkloadUnsupported(Exception):
    """The contender does not implement the calls of this workload."""


class Stage(NamedTuple):
    """The contender of a turn, a client of its Redis database, and the choices of keys and values."""

    contender: Contender
    redis: redis.Redis
    choices: Choices

    def empty_caches(self) -> None:
        """Empty the Redis database and the local cache of the contender."""
        self.redis.flushdb()
        self.contender.empty_local_cache()


Measure = Callable[[Stage], Mapping[str, float]]


def measure_warm_leaderboard(stage: Stage) -> Mapping[str, float]:
    """Measure reads of a cached leaderboard."""
    return _time_warm(stage, stage.contender.get_leaderboard)


def measure_cold_leaderboard(stage: Stage) -> Mapping[str, float]:
    """Measure reads of a leaderboard that is not cached."""
    return _time_cold(stage, stage.contender.get_leaderboard)


def measure_warm_portfolio(stage: Stage) -> Mapping[str, float]:
    """Measure reads of a cached portfolio."""
    [player] = stage.choices.pick_players(1)
    return _time_warm(stage, lambda: stage.contender.get_portfolio(player))


def measure_cold_portfolio(stage: Stage) -> Mapping[str, float]:
    """Measure reads of portfolios that are not cached."""
    players = iter(stage.choices.pick_players(stage.choices.scale.cold_calls + 1))
    return _time_cold(stage, lambda: stage.contender.get_portfolio(next(players)))


def measure_warm_market(stage: Stage) -> Mapping[str, float]:
    """Measure reads of the cached latest ticks of 200 symbols."""
    symbols = stage.choices.pick_symbols(MARKET_SYMBOLS)
    return _time_warm(stage, lambda: stage.contender.get_market(symbols))


def measure_cold_market(stage: Stage) -> Mapping[str, float]:
    """Measure reads of the latest ticks of 200 symbols, which are not cached."""
    symbols = stage.choices.pick_symbols(MARKET_SYMBOLS)
    return _time_cold(stage, lambda: stage.contender.get_market(symbols))


def measure_batch_of(count: int) -> Measure:
    """Return a function that measures one batch update of `count` portfolios."""

    def measure(stage: Stage) -> Mapping[str, float]:
        stage.contender.update_portfolios(stage.choices.make_updates(10))
        updates = stage.choices.make_updates(count)
        seconds = _time(lambda: stage.contender.update_portfolios(updates))
        return {"seconds": seconds, "per_second": count / seconds}

    return measure


def measure_single_ticks(stage: Stage) -> Mapping[str, float]:
    """Measure inserts of single ticks."""
    count = stage.choices.scale.single_calls
    return _time_single(stage.contender.insert_tick, stage.choices.make_ticks(WARM_UP_CALLS + count))


def measure_bulk_ticks(stage: Stage) -> Mapping[str, float]:
    """Measure one insert of many ticks."""
    count = stage.choices.scale.bulk_ticks
    stage.contender.insert_ticks(stage.choices.make_ticks(10))
    ticks = stage.choices.make_ticks(count)
    seconds = _time(lambda: stage.contender.insert_ticks(ticks))
    return {"seconds": seconds, "per_second": count / seconds}


def measure_one_score(stage: Stage) -> Mapping[str, float]:
    """Measure writes of single scores on the small leaderboard."""
    game, choices = _game_of(stage), stage.choices
    players = _pick_players(stage)
    pairs = list(zip(players, choices.make_scores(len(players)), strict=True))
    return _time_single(lambda pair: game.update_score(pair[0], pair[1], SMALL_CATEGORY), pairs)


def measure_writers(stage: Stage) -> Mapping[str, float]:
    """Measure eight threads that write scores on the small leaderboard; each thread has its own players."""
    game, choices = _game_of(stage), stage.choices
    count = choices.scale.single_calls
    # no two threads have a player in common
    players = [
        [player_id(n - (n - 1) % WRITERS + number) for n in choices.pick_small(count)]
        for number in range(WRITERS)
    ]
    scores = choices.make_scores(count)
    seconds: list[float] = []
    barrier = threading.Barrier(WRITERS + 1)

    def write(pair: tuple[UUID, Decimal]) -> None:
        game.update_score(pair[0], pair[1], SMALL_CATEGORY)

    def work(number: int) -> None:
        pairs = list(zip(players[number], scores, strict=True))
        write(pairs[0])
        barrier.wait(START_SECONDS)
        seconds.extend(_time_each(write, pairs))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    barrier.wait(START_SECONDS)
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    return {"seconds": elapsed, "per_second": len(seconds) / elapsed, "p99": percentile(seconds, 99)}


def measure_one_rank(stage: Stage) -> Mapping[str, float]:
    """Measure reads of single ranks on the small leaderboard."""
    game = _game_of(stage)
    return _time_single(lambda player: game.get_rank(player, SMALL_CATEGORY), _pick_players(stage))


def measure_one_portfolio(stage: Stage) -> Mapping[str, float]:
    """Measure writes of single portfolios."""
    players = _pick_players(stage)
    pairs = list(zip(players, map(abs, stage.choices.make_scores(len(players))), strict=True))
    return _time_single(lambda pair: stage.contender.update_portfolio(*pair), pairs)


def measure_one_profile(stage: Stage) -> Mapping[str, float]:
    """Measure writes of single profiles."""
    game, number = _game_of(stage), next(stage.choices.numbers)
    return _time_single(lambda player: game.update_profile(player, f"Name {number}"), _pick_players(stage))


def measure_one_quest(stage: Stage) -> Mapping[str, float]:
    """Measure writes of the progress of single quests."""
    game, choices = _game_of(stage), stage.choices
    quests = [quest_id(n) for n in choices.pick_small(WARM_UP_CALLS + choices.scale.single_calls)]
    pairs = list(zip(quests, map(abs, choices.make_scores(len(quests))), strict=True))
    return _time_single(lambda pair: game.update_quest(*pair), pairs)


def measure_search(stage: Stage) -> Mapping[str, float]:
    """Measure searches for players by a prefix."""
    choices = stage.choices
    return _time_single(
        _game_of(stage).search, choices.make_prefixes(WARM_UP_CALLS + choices.scale.single_calls)
    )


def _game_of(stage: Stage) -> GameContender:
    contender: Contender = stage.contender
    if not isinstance(contender, GameContender):
        raise WorkloadUnsupported
    return contender


def _pick_players(stage: Stage) -> list[UUID]:
    choices = stage.choices
    return [player_id(n) for n in choices.pick_small(WARM_UP_CALLS + choices.scale.single_calls)]


def _time_single(call: Callable[[T], object], items: Sequence[T]) -> Mapping[str, float]:
    """Return the median time of all calls except the first ten, which connect and prepare statements."""
    seconds = statistics.median(_time_each(call, items)[WARM_UP_CALLS:])
    return {"seconds": seconds, "per_second": 1 / seconds}


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
