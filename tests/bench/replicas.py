"""`python -m tests.bench.replicas`: how many cold reads a replica takes beside writes, and what it costs.

Owns the writer, the cold reads and the comparison of the same call with and without a replica, in one run. A
cold read is a profile whose value has just left both tiers; the writer changes profiles and portfolios of
players that are drawn at random, each write a commit of its own.
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
from typing import Any

import click
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
WANTED_SHARE = 0.9


@click.command()
@click.option("--seconds", type=click.FloatRange(1), default=SECONDS, show_default=True)
@click.option("--writes", type=click.IntRange(1), default=100, show_default=True, help="Writes a second.")
@click.option("--lag", type=click.IntRange(0), default=5, show_default=True, help="Milliseconds of lag.")
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, show_default=True)
def main(seconds: float, writes: int, lag: int, rounds: int) -> None:
    """Measure the share of cold reads on the replica, then the cost of each call."""
    console = Console(width=100)
    with served() as (pair, settings):
        set_lag(pair, lag)
        with open_service(settings) as reader, open_service(settings) as writer:
            users = prepare(writer)
            wait_until_used(reader)
            done = draw_reads(reader, writer, users, seconds=seconds, writes=writes)
        set_lag(pair, 0)
        reads = sum(done["reads"].values())
        share = done["reads"].get(ON_REPLICA, 0) / reads
        verdict = "yes" if share >= WANTED_SHARE else "no"
        others = [
            f"{reason} {number}" for (_, reason), number in done["reads"].items() if reason != "replayed"
        ]
        console.print(
            f"{share:.1%} of {reads} cold reads ran on the replica (at least {WANTED_SHARE:.0%}? {verdict}),"
            f" beside {done['writes'] / seconds:.0f} writes a second, replay {lag} ms behind;"
            f" the others: {', '.join(others) or 'none'}"
        )
        console.print(compare(settings, users, rounds))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    console.print(f"medians of {rounds} rounds, on {os.cpu_count()} cores at load {load}")


@contextmanager
def served() -> Iterator[tuple[ReplicaPair, Settings]]:
    """Serve a migrated primary, its replica and a Valkey."""
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
    """Let the replica replay each commit so much later."""
    with connected(pair.replica.url(DATABASE)) as run:
        run(f"ALTER SYSTEM SET recovery_min_apply_delay = {milliseconds}")
        run("SELECT pg_reload_conf()")


def prepare(service: EnhancedDatabaseService) -> list[Any]:
    """Create the players and their portfolios; return their ids."""
    with service.transaction():
        users = [service.create_user(username=f"player{number}").id for number in range(PLAYERS)]
        for user_id in users:
            service.get_current_portfolio(user_id)
    return users


def draw_reads(
    reader: EnhancedDatabaseService,
    writer: EnhancedDatabaseService,
    users: list[Any],
    *,
    seconds: float,
    writes: int,
) -> dict[str, Any]:
    """Read cold profiles while the writer writes; return where the reads ran, and the number of writes."""
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
        # slots are unknown for three seconds at first
        _read_cold(reader, users, 8.0)
        before, began_with = count_reads(reader), written
        _read_cold(reader, users, seconds)
        after = count_reads(reader)
    finally:
        stopping.set()
        thread.join()
    return {
        "reads": {key: number - before.get(key, 0) for key, number in after.items()},
        "writes": written - began_with,
    }


def _read_cold(reader: EnhancedDatabaseService, users: list[Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        read_cold(reader, random.choice(users))
        time.sleep(0.001)


def read_cold(service: EnhancedDatabaseService, user_id: Any) -> None:
    """Read a profile that no tier has."""
    cache: Any = service._cache
    cache._shared._client.ask("DEL", f"user:{user_id}")
    cache._near.clear()
    service.get_user_by_id(user_id)


def compare(settings: Settings, users: list[Any], rounds: int) -> Table:
    """Measure calls with a replica beside the same calls without."""
    table = Table("call", "without", "with a replica", "ratio", box=None)
    with (
        open_service(settings.model_copy(update={"database_replica_urls": None})) as plain,
        open_service(settings) as replicated,
    ):
        wait_until_used(replicated)
        values = count()
        calls: dict[str, Callable[[EnhancedDatabaseService], object]] = {
            "a cold read": lambda service: read_cold(service, random.choice(users)),
            "a read past the cache": lambda service: service.get_user_by_username("player7"),
            "a write in a transaction": lambda service: service.update_user_profile(
                users[7], name=f"n{next(values)}"
            ),
            "a lone statement that writes": lambda service: service.touch_last_active(users[8]),
        }
        for name, call in calls.items():
            pair = Pair(lambda call=call: call(plain), lambda call=call: call(replicated))  # type: ignore[misc]  # bound at once
            with suppress(ZeroDivisionError):
                figures = measure(pair, rounds, CALLS)
                ratio = statistics.median(more / less for less, more in figures)
                times = [f"{statistics.median(column) * 1e6:.0f} us" for column in zip(*figures, strict=True)]
                table.add_row(name, *times, f"{ratio:.2f}")
    return table


if __name__ == "__main__":
    main()
