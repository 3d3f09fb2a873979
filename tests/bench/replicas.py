"""`python -m tests.bench.replicas`: measure how many cold reads a replica serves, and what the replica costs.

One run measures the share of cold reads on the replica, the load of the primary with and without the replica,
and the time of single calls with and without the replica. A cold read reads a profile that was just removed
from both cache tiers. At the same time, a writer changes the profiles of random players, one commit per
write.
"""

import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import click
import psutil
from rich.console import Console
from rich.table import Table

from core import EnhancedDatabaseService, Settings, open_service
from core.migration import Migrator
from core.testing import run_valkey
from tests.bench.isolation import Pair, measure
from tests.conftest import connected
from tests.replicas import DATABASE, ON_REPLICA, ReplicaPair, count_reads, run_pair, wait_until_used

PLAYERS = 2_000
SECONDS = 20.0
ROUNDS = 30
CALLS = 30
MIN_SHARE = 0.9
# The LSNs in the slots (`core.cache.lsn_slots`) are unknown for the first three seconds.
SETTLE_SECONDS = 8.0


class Turn(NamedTuple):
    """The cold reads by (server, reason), the number of writes, and the load on the primary."""

    reads: dict[tuple[str, str], int]
    writes: int
    transactions: int
    processor_seconds: float


@click.command()
@click.option("--seconds", type=click.FloatRange(1), default=SECONDS, show_default=True)
@click.option("--writes", type=click.IntRange(1), default=100, show_default=True, help="Writes a second.")
@click.option("--reads", type=click.IntRange(1), default=200, show_default=True, help="Cold reads a second.")
@click.option("--lag", type=click.IntRange(0), default=5, show_default=True, help="Milliseconds of lag.")
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, show_default=True)
def main(seconds: float, writes: int, reads: int, lag: int, rounds: int) -> None:
    """Measure the cold reads on the replica and the load of the primary, then the time of single calls."""
    console = Console(width=100)
    with run_pair_and_valkey() as (pair, settings):
        plain = settings.model_copy(update={"database_replica_urls": None})
        with open_service(plain) as service:
            users = prepare(service)
        set_lag(pair, lag)
        turns = {}
        for name, used in (("without", plain), ("with a replica", settings)):
            with open_service(used) as reader, open_service(used) as writer:
                wait_until_used(reader)
                turns[name] = measure_cold_reads(
                    pair, reader, writer, users, seconds=seconds, writes=writes, reads=reads
                )
        set_lag(pair, 0)
        console.print(describe_share(turns["with a replica"], seconds=seconds, lag=lag))
        console.print(describe_load(turns, seconds=seconds))
        console.print(compare(settings, users, rounds))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    console.print(f"medians of {rounds} rounds, on {os.cpu_count()} cores at load {load}")


@contextmanager
def run_pair_and_valkey() -> Iterator[tuple[ReplicaPair, Settings]]:
    """Yield a migrated primary with its replica, and settings with both and a Valkey."""
    Settings.model_config["env_file"] = None
    with tempfile.TemporaryDirectory(prefix="echo-markets-bench-") as folder:
        numbers = count()

        def make_directory() -> Path:
            directory = Path(folder) / str(next(numbers))
            directory.mkdir()
            return directory

        with run_pair(make_directory) as pair, run_valkey(make_directory()) as valkey:
            settings = pair.settings(valkey)
            Migrator(settings).up()
            pair.wait_until_replayed()
            yield pair, settings


def set_lag(pair: ReplicaPair, milliseconds: int) -> None:
    """Delay the replay of each commit on the replica by some milliseconds."""
    with connected(pair.replica.url(DATABASE)) as run:
        run(f"ALTER SYSTEM SET recovery_min_apply_delay = {milliseconds}")
        run("SELECT pg_reload_conf()")


def prepare(service: EnhancedDatabaseService) -> list[Any]:
    """Create the players and their portfolios; return the ids of the players."""
    with service.transaction():
        users = [service.create_user(username=f"player{number}").id for number in range(PLAYERS)]
        for user_id in users:
            service.get_current_portfolio(user_id)
    return users


def describe_share(turn: Turn, *, seconds: float, lag: int) -> str:
    """Return a text with the share of cold reads on the replica, and the reasons of all other reads."""
    total = sum(turn.reads.values())
    share = turn.reads.get(ON_REPLICA, 0) / total
    verdict = "yes" if share >= MIN_SHARE else "no"
    others = [f"{reason} {number}" for (_, reason), number in turn.reads.items() if reason != "replayed"]
    return (
        f"{share:.1%} of {total} cold reads ran on the replica (at least {MIN_SHARE:.0%}? {verdict}),"
        f" beside {turn.writes / seconds:.0f} writes a second, replay {lag} ms behind;"
        f" the others: {', '.join(others) or 'none'}"
    )


def describe_load(turns: dict[str, Turn], *, seconds: float) -> Table:
    """Return a table of the load of the primary, without and with the replica."""
    table = Table("the primary", *turns, "ratio", box=None)
    for name, field in (("transactions a second", "transactions"), ("processors", "processor_seconds")):
        figures = [getattr(turn, field) / seconds for turn in turns.values()]
        table.add_row(name, *(f"{figure:.2f}" for figure in figures), f"{figures[1] / figures[0]:.2f}")
    return table


def measure_cold_reads(
    pair: ReplicaPair,
    reader: EnhancedDatabaseService,
    writer: EnhancedDatabaseService,
    users: list[Any],
    *,
    seconds: float,
    writes: int,
    reads: int,
) -> Turn:
    """Read cold profiles while a writer writes; return the numbers of reads and the load of the primary."""
    stopping = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        due = time.monotonic()
        while not stopping.is_set():
            user_id = random.choice(users)
            if written % 2:
                writer.update_user_profile(user_id, name=f"name {written}")
            else:
                writer.touch_last_active(user_id)
            written += 1
            due += random.expovariate(writes)
            stopping.wait(max(0.0, due - time.monotonic()))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        _read_cold(reader, users, seconds=SETTLE_SECONDS, reads=reads)
        before, began_with, load = count_reads(reader), written, _read_load(pair)
        _read_cold(reader, users, seconds=seconds, reads=reads)
        after, ended_with, load_after = count_reads(reader), written, _read_load(pair)
    finally:
        stopping.set()
        thread.join()
    return Turn(
        {key: number - before.get(key, 0) for key, number in after.items()},
        ended_with - began_with,
        load_after[0] - load[0],
        load_after[1] - load[1],
    )


def _read_cold(reader: EnhancedDatabaseService, users: list[Any], *, seconds: float, reads: int) -> None:
    due = time.monotonic()
    deadline = due + seconds
    while due < deadline:
        read_cold(reader, random.choice(users))
        due += 1 / reads
        time.sleep(max(0.0, due - time.monotonic()))


def _read_load(pair: ReplicaPair) -> tuple[int, float]:
    """Return the committed transactions of the primary and the CPU seconds of its processes."""
    with connected(pair.primary.url(DATABASE)) as run:
        [(transactions,)] = run("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
    server = psutil.Process(pair.primary.pid)
    ended = server.cpu_times()
    seconds = ended.children_user + ended.children_system
    for process in (server, *server.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system
    return int(transactions), seconds


def read_cold(service: EnhancedDatabaseService, user_id: Any) -> None:
    """Read a profile that is in neither cache tier."""
    cache: Any = service._cache
    cache._shared._client.execute("DEL", f"user:{user_id}")
    cache._near.clear()
    service.get_user_by_id(user_id)


def compare(settings: Settings, users: list[Any], rounds: int) -> Table:
    """Return a table that compares the time of calls without and with a replica."""
    table = Table("call", "without", "with a replica", "ratio", box=None)
    with (
        open_service(settings.model_copy(update={"database_replica_urls": None})) as plain,
        open_service(settings) as replicated,
    ):
        wait_until_used(replicated)
        values = count()
        calls: dict[str, Callable[[EnhancedDatabaseService], object]] = {
            "a cold read": lambda service: read_cold(service, random.choice(users)),
            "a read without the cache": lambda service: service.get_user_by_username("player7"),
            "a write in a transaction": lambda service: service.update_user_profile(
                users[7], name=f"n{next(values)}"
            ),
            "a write of one statement in autocommit mode": lambda service: service.touch_last_active(
                users[8]
            ),
        }
        for name, call in calls.items():
            pair = Pair(lambda call=call: call(plain), lambda call=call: call(replicated))  # type: ignore[misc]  # call=call binds now
            figures = measure(pair, rounds, CALLS)
            ratio = statistics.median(more / less for less, more in figures)
            times = [f"{statistics.median(column) * 1e6:.0f} us" for column in zip(*figures, strict=True)]
            table.add_row(name, *times, f"{ratio:.2f}")
    return table


if __name__ == "__main__":
    main()
