"""`python -m tests.bench.growth`: measure how the cost of an operation grows with the size of its data.

Owns the operations of cache, pool and metrics, and the table of their CPU times with 1,000, 10,000 and
100,000 entries. Each ratio compares two times of the same round. There is no pass or fail;
`tests/unit/test_growth.py` counts the steps of the same operations.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from decimal import Decimal
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple, cast
from uuid import UUID

import click
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from core import EnhancedDatabaseService, Settings, open_service
from core.cache.cache import Cache
from core.cache.change_log import ChangeLog
from core.cache.near import FailSafeValues, NearCache
from core.cache.outbox import InvalidationOutbox, KeyScripts
from core.cache.single_flight import SingleFlight
from core.database.connector import ServerConnection
from core.database.holder import Holder
from core.database.pool import ConnectionPool, PendingRequest
from core.errors import PoolTimeout
from core.metrics import Metrics
from core.service.leaderboards import leaderboard_version_key
from tests.bench.servers import run_servers

SIZES = (1_000, 10_000, 100_000)
ROUNDS = 15
FOREVER = 1e9
DAY = date(2026, 3, 2)
# Number of version keys that have one dependent leaderboard each.
SINGLE_DEPENDENTS = 100
# Number of version keys that have a hundred dependent leaderboards each. Portfolios depend on no version key.
SHARED_VERSION_KEYS = 5
# Number of keys in one push.
PUSHED = 1_000
CALLS_OF_SERVICE = 100


class Trial(NamedTuple):
    """The calls of one operation on a structure, and the function that restores its size afterwards."""

    act: Callable[[int], object]
    calls: int = 50
    restore: Callable[[], object] = lambda: None


Prepare = Callable[[int], Trial]


def values_of(size: int) -> dict[str, tuple[str, ...]]:
    """Return `size` cache keys, each with the version keys on which its value depends."""
    leaderboards = {f"leaderboard:h{n}": (f"version:h{n // 100}",) for n in range(100 * SHARED_VERSION_KEYS)}
    leaderboards |= {f"leaderboard:a{n}": (f"version:a{n}",) for n in range(SINGLE_DEPENDENTS)}
    portfolios: dict[str, tuple[str, ...]] = {f"portfolio:{n}": () for n in range(size - len(leaderboards))}
    return leaderboards | portfolios


def open_near(size: int) -> NearCache:
    """Return a full near cache: the leaderboards were admitted first, then the portfolios."""
    near = NearCache(ChangeLog(), max_entries=size, ttl_seconds=FOREVER)
    near.open()
    fill_near(near, values_of(size))
    return near


def fill_near(near: NearCache, values: dict[str, tuple[str, ...]]) -> None:
    """Admit a value for each key to a near cache."""
    for key, depends_on in values.items():
        near.end_read(near.begin_read(), {key: key}, depends_on)


def hit(size: int) -> Trial:
    """Return a trial of a hit of the near cache."""
    near = open_near(size)
    return Trial(lambda n: near.get(f"portfolio:{n}"), 400)


def miss(size: int) -> Trial:
    """Return a trial of a miss of the near cache and the start of a read."""
    near = open_near(size)

    def act(number: int) -> None:
        near.get(f"user:{number}")
        near.begin_read()

    return Trial(act, 400)


def evict(size: int) -> Trial:
    """Return a trial of the admission of a value to a full near cache, which evicts another value."""
    near = open_near(size)
    numbers = iter(range(10**9))

    def act(_: int) -> None:
        near.end_read(near.begin_read(), {f"user:{next(numbers)}": 1}, ())

    return Trial(act, 200)


def invalidate(names: Callable[[int], list[str]], calls: int = 50) -> Prepare:
    """Return a function that prepares a trial of the invalidation of keys and their dependent values."""

    def prepare(size: int) -> Trial:
        near = open_near(size)
        changed = {name for number in range(calls) for name in names(number)}
        dropped = {
            key: depends_on
            for key, depends_on in values_of(size).items()
            if key in changed or not changed.isdisjoint(depends_on)
        }
        return Trial(lambda number: near.invalidate(names(number)), calls, partial(fill_near, near, dropped))

    return prepare


def invalidate_fail_safe(size: int) -> Trial:
    """Return a trial of the invalidation of fail-safe values by a write of a leaderboard."""
    fail_safe = FailSafeValues(max_entries=size, seconds=FOREVER)

    def add(values: dict[str, tuple[str, ...]]) -> None:
        for key, depends_on in values.items():
            fail_safe.remember(fail_safe.take_ticket(), {key: key}, depends_on)

    add(values_of(size))
    few: dict[str, tuple[str, ...]] = {f"leaderboard:a{n}": (f"version:a{n}",) for n in range(50)}
    return Trial(lambda n: fail_safe.invalidate([f"version:a{n}", f"portfolio:{n}"]), 50, partial(add, few))


def flush(size: int) -> Trial:
    """Return a trial of the removal of all values of the near cache."""
    near = open_near(size)
    return Trial(lambda _: near.clear(), 1, partial(fill_near, near, values_of(size)))


def run_single_flight(size: int) -> Trial:
    """Return a trial of a read through single-flight while reads of many other keys are running."""
    single_flight = SingleFlight(ChangeLog())
    for number in range(size):
        single_flight.do(f"k{number}", (), partial(keep_running, single_flight, f"k{number}"))
    return Trial(lambda n: single_flight.do(f"own{n}", ("version",), lambda: n), 200)


def keep_running(single_flight: SingleFlight, key: str) -> None:
    """Replace the running read of a key by a read that never ends."""
    call = single_flight._running[key]
    single_flight._running[key] = type(call)(call.names, call.ticket)


def fail_to_flush(size: int) -> Trial:
    """Return a trial of a flush of the invalidation outbox that fails because Redis does not answer."""

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError

    client: Any = SimpleNamespace(run_each=refuse)
    outbox, scripts = InvalidationOutbox(), KeyScripts(client, prefix="")
    outbox.add([f"k{number}" for number in range(size)], b"F")

    def act(_: int) -> None:
        try:
            outbox.flush(scripts)
        except ConnectionError:
            return
        raise AssertionError("the flush has succeeded")

    return Trial(act, 5)


class FakeConnection:
    """A connection without a server."""

    closed = 0
    keeps_session = True
    transaction_status = TRANSACTION_STATUS_IDLE

    def __init__(self, descriptor: int) -> None:
        self.info = self
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return a file descriptor that is never readable."""
        return self._descriptor

    def close(self) -> None:
        """Do nothing: there is no server."""


def open_pool(limit: int, used: int) -> ConnectionPool:
    """Return a pool with `used` connections checked out, and with a clock that never advances."""
    descriptor, _ = os.pipe()
    pool = ConnectionPool(
        lambda: cast("ServerConnection", FakeConnection(descriptor)),
        limit=limit,
        timeout_seconds=0,
        metrics=Metrics("job"),
        clock=lambda: 1000.0,
    )
    for _ in range(used):
        pool.checkout("others", Holder())
    return pool


def check_out(size: int) -> Trial:
    """Return a trial of a check-out and check-in while all other connections are checked out."""
    pool = open_pool(limit=size + 1, used=size)
    pool.checkin(pool.checkout("first"))
    return Trial(lambda _: pool.checkin(pool.checkout("next")), 200)


def time_out(size: int) -> Trial:
    """Return a trial of a check-out that times out behind many pending requests."""
    pool = open_pool(limit=1, used=1)
    pool._pending.update(dict.fromkeys(PendingRequest() for _ in range(size)))

    def act(_: int) -> None:
        try:
            pool.checkout("late")
        except PoolTimeout:
            return
        raise AssertionError("the pool had an idle connection")

    return Trial(act, 100)


def scrape(size: int) -> Trial:
    """Return a trial of the collection of the metrics of a process with a full cache."""
    metrics = Metrics("job")
    settings = Settings(
        database_url=SecretStr("postgresql://nobody@localhost/none"),
        enable_redis_cache=False,
        near_cache_size=size,
    )
    cache = Cache(settings, client_name="growth", metrics=metrics)
    fill_cache(cache, size)
    metrics.collect()

    def act(_: int) -> None:
        metrics.collect()
        cache.stats()

    return Trial(act, 5)


def fill_cache(cache: Any, size: int) -> None:
    """Fill the near cache and the fail-safe values of a cache."""
    if not cache._near.is_live:
        cache._near.open()
    fill_near(cache._near, values_of(size))
    for key, depends_on in values_of(size).items():
        cache._fail_safe.remember(cache._fail_safe.take_ticket(), {key: key}, depends_on)


def push(number: int) -> list[str]:
    """Return the keys of one push; one tenth of these keys is cached."""
    cached = [f"portfolio:{number * 100 + n}" for n in range(PUSHED // 10)]
    return [*cached, *(f"user:{n}" for n in range(PUSHED - len(cached)))]


OPERATIONS: dict[str, Prepare] = {
    "near hit": hit,
    "near miss": miss,
    "evict": evict,
    "invalidate a key": invalidate(lambda number: [f"portfolio:{number}"]),
    "invalidate a version key with 1 dependent": invalidate(lambda number: [f"version:a{number}"]),
    "invalidate a version key with 100 dependents": invalidate(
        lambda n: [f"version:h{n}"], SHARED_VERSION_KEYS
    ),
    "push of 1,000 keys": invalidate(push, 3),
    "flush": flush,
    "invalidate fail-safe values": invalidate_fail_safe,
    "read through single-flight": run_single_flight,
    "fail to flush the outbox": fail_to_flush,
    "checkout and check-in": check_out,
    "check-out that times out": time_out,
    "scrape": scrape,
}


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, show_default=True)
@click.option("--largest", type=click.IntRange(min(SIZES)), default=max(SIZES), show_default=True)
def main(rounds: int, largest: int) -> None:
    """Measure each operation with every size; print the ratios to the smallest size."""
    sizes = [size for size in SIZES if size <= largest]
    console = Console(width=100)
    table = Table("operation", f"us at {sizes[0]:,}", *(f"ratio at {size:,}" for size in sizes[1:]), box=None)
    for name, prepare in OPERATIONS.items():
        trials = [prepare(size) for size in sizes]
        table.add_row(name, *describe(measure(trials, rounds)))
    with open_services(sizes) as services:
        for name, list_calls in CALLS.items():
            trials = [list_calls(service) for service in services]
            table.add_row(name, *describe(measure(trials, rounds)))
    console.print(table)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    console.print(f"medians of {rounds} rounds, on {os.cpu_count()} cores at load {load}")


def measure(trials: Sequence[Trial], rounds: int) -> list[list[float]]:
    """Return the CPU seconds per call of each trial for each round; the trials take turns."""
    return [[clock(trial) for trial in trials] for _ in range(rounds)]


def clock(trial: Trial) -> float:
    """Return the mean CPU seconds of this thread for one call of a trial."""
    started = time.thread_time()
    for number in range(trial.calls):
        trial.act(number)
    seconds = (time.thread_time() - started) / trial.calls
    trial.restore()
    return seconds


def describe(rounds: Sequence[Sequence[float]]) -> list[str]:
    """Return the median microseconds of the first size, and the median ratio of each other size."""
    first = statistics.median(row[0] for row in rounds)
    ratios = [statistics.median(row[index] / row[0] for row in rounds) for index in range(1, len(rounds[0]))]
    return [f"{first * 1e6:.2f}", *(f"{ratio:.2f}" for ratio in ratios)]


# -- operations of the service, on real servers ---------------------------------------


@contextmanager
def open_services(sizes: Sequence[int]) -> Iterator[list[EnhancedDatabaseService]]:
    """Yield one service per size, all on one database, with full near caches and fail-safe values."""
    with run_servers() as settings, ExitStack() as stack:
        services = []
        for number, size in enumerate(sizes):
            # each service has its own key prefix, so that no feed gets the invalidations of another service
            own = {"near_cache_size": size, "near_cache_ttl": 600_000, "redis_key_prefix": f"{number}:"}
            service = stack.enter_context(open_service(settings.model_copy(update=own)))
            wait_for_near(service)
            fill_cache(service._cache, size)
            services.append(service)
        yield services


def wait_for_near(service: EnhancedDatabaseService) -> None:
    """Wait until the near cache serves values."""
    deadline = time.monotonic() + 10
    while not service._cache._near.is_live:
        if time.monotonic() > deadline:
            raise TimeoutError("the near cache does not serve")
        time.sleep(0.001)


def add_player(service: EnhancedDatabaseService) -> UUID:
    """Create a player and return the id."""
    prefix = service._cache._shared._add_prefix([""])[0] if service._cache._shared is not None else ""
    return service.create_user(username=f"growth{prefix.rstrip(':')}-{time.monotonic_ns()}").id


def write_leaderboard(service: EnhancedDatabaseService) -> Trial:
    """Return a trial of a write of one score."""
    player = add_player(service)
    scores = iter(range(10**9))
    return Trial(
        lambda _: service.update_leaderboard_entry(player, "growth", Decimal(next(scores)), DAY),
        CALLS_OF_SERVICE,
    )


def read_leaderboard(service: EnhancedDatabaseService) -> Trial:
    """Return a trial of a read of a leaderboard that is neither in the near cache nor in Redis."""
    service.update_leaderboard_entry(add_player(service), "growth", Decimal(1), DAY)

    def act(_: int) -> None:
        service._cache.invalidate([leaderboard_version_key("growth", DAY)])
        service.get_leaderboard("growth", DAY, 50)

    return Trial(act, CALLS_OF_SERVICE)


CALLS: dict[str, Callable[[EnhancedDatabaseService], Trial]] = {
    "service: write a score": write_leaderboard,
    "service: read an invalidated leaderboard": read_leaderboard,
}


if __name__ == "__main__":
    main()
