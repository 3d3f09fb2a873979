"""`python -m tests.coherence.sentinel_drill`: sentinel failovers under load, with a check of every read.

Owns the faults, the order of the steps and the printed table. The command exits with 1 when a read was stale,
a call failed, a write was lost, or the cache was not used again in time. The reads and writes are made by
`tests.coherence.load`.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import click
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from core import Settings, open_service
from core.migration import Migrator
from core.testing import ValkeyServer, run_postgres
from tests.coherence.conftest import make_fleet_settings
from tests.coherence.fleet import PATIENCE_SECONDS, Fleet, run_fleet
from tests.coherence.load import PLAYERS, READS, REGISTERS, Counts, Ledger, Team
from tests.coherence.registers import Game, read_registers
from tests.coherence.soak import add_up
from tests.hosts import HostNotPossible, run_host
from tests.matrix.caches.sentinels import Sentinels, run_sentinels
from tests.matrix.caches.servers import PROGRAMS, RedisServer, require_program
from tests.patience import HEAL_SECONDS, stretch, wait_until

TEAM = Team(processes=3, threads=2)
LONGEST_SECONDS = 120.0
# How long the load runs before each fault, and again after the processes use the new primary.
CALM_SECONDS = 1.0


class Outcome(NamedTuple):
    """The result of one fault; `lost` describes registers whose acknowledged write is not in PostgreSQL."""

    fault: str
    counts: Counts
    elected_seconds: float
    healed_seconds: float
    lost: list[str]

    @property
    def is_fine(self) -> bool:
        """True without stale reads, errors and lost writes, if the cache was used again in time."""
        is_in_time = self.healed_seconds <= stretch(HEAL_SECONDS)
        return not self.counts.stale and not self.counts.errors and not self.lost and is_in_time


@contextmanager
def _order(sentinels: Sentinels, _: RedisServer) -> Iterator[None]:
    sentinels.fail_over()
    yield


@contextmanager
def _hang(_: Sentinels, primary: RedisServer) -> Iterator[None]:
    with primary.hung():
        yield


@contextmanager
def _kill(_: Sentinels, primary: RedisServer) -> Iterator[None]:
    primary.kill()
    yield


@contextmanager
def _cut_off(sentinels: Sentinels, _: RedisServer) -> Iterator[None]:
    assert sentinels.host is not None
    sentinels.host.cut_off()
    yield
    sentinels.host.reconnect()


Fault = Callable[[Sentinels, RedisServer], AbstractContextManager[None]]
# SIGKILL comes last: after it no replica is left that could be elected.
FAULTS: dict[str, Fault] = {
    "SENTINEL FAILOVER": _order,
    "primary hung (SIGSTOP) until the election": _hang,
    "primary killed (SIGKILL)": _kill,
}
# This fault needs the primary in a network namespace, which can be cut off.
FAULTS_OF_HOST: dict[str, Fault] = {"host of the primary cut off until the election": _cut_off}


def run_faults(
    settings: Settings, sentinels: Sentinels, folder: Path, *, faults: Mapping[str, Fault] = FAULTS
) -> list[Outcome]:
    """Cause each fault while processes read and write; `settings` must name a migrated database."""
    settings = settings.model_copy(update={"redis_url": SecretStr(sentinels.url()), "redis_password": None})
    server = ValkeyServer(port=sentinels.servers[0].port, pid=0, password="")
    with run_fleet(settings, server, [None] * TEAM.processes) as fleet:
        return [
            _run_fault(name, fault, fleet, settings, sentinels, folder / f"versions-{number}")
            for number, (name, fault) in enumerate(faults.items())
        ]


def _run_fault(
    name: str, fault: Fault, fleet: Fleet, settings: Settings, sentinels: Sentinels, path: Path
) -> Outcome:
    sentinels.wait_until_ready()
    game = fleet.start_game(PLAYERS)
    ledger = Ledger.create(path)
    for number, member in enumerate(fleet.members):
        team = TEAM._replace(process=number)
        member.call("begin", "load", "load", game, path, team, LONGEST_SECONDS)
    time.sleep(CALM_SECONDS)
    primary, replica = sentinels.find_primary()
    began = time.monotonic()
    with fault(sentinels, primary):
        sentinels.wait_for_election(replica.port)
        elected = time.monotonic()
    wait_until(
        lambda: all(_uses_new_primary(member, replica) for member in fleet.members),
        "the new primary is used",
        PATIENCE_SECONDS,
    )
    healed = time.monotonic()
    time.sleep(CALM_SECONDS)
    counts = add_up(member.call("end_load") for member in fleet.members)
    fleet.take_history()
    return Outcome(name, counts, elected - began, healed - elected, find_lost(settings, game, ledger))


def _uses_new_primary(member: Any, replica: RedisServer) -> bool:
    """Return whether a process reads from the new primary and its near cache serves again."""
    is_found = member.call("find_server") == f"{replica.address}:{replica.port}"
    return is_found and not member.call("is_down") and bool(member.call("is_live"))


def find_lost(settings: Settings, game: Game, ledger: Ledger) -> list[str]:
    """Return a text for each register whose version in PostgreSQL is older than the acknowledged one."""
    with open_service(settings.model_copy(update={"enable_redis_cache": False})) as service:
        seen: dict[str, int] = {}
        for what, argument in READS:
            seen |= read_registers(service, game, what, argument)
    return [
        f"{register}: {seen[register]} instead of {acknowledged}"
        for register, acknowledged in zip(REGISTERS, ledger.acknowledged, strict=True)
        if seen[register] < acknowledged
    ]


@click.command()
@click.option("--program", type=click.Choice(PROGRAMS), default="valkey", show_default=True)
def main(program: str) -> None:
    """Start own servers, check every read while sentinels fail over under load, and print a table (30 s)."""
    Settings.model_config["env_file"] = None
    console = Console()
    with tempfile.TemporaryDirectory(prefix="echo-markets-drill-") as name:
        folder, numbers = Path(name), count()

        def make_directory() -> Path:
            directory = folder / f"server-{next(numbers)}"
            directory.mkdir()
            return directory

        with run_postgres(folder) as postgres:
            settings = make_fleet_settings(postgres.url(), ValkeyServer(port=1, pid=0, password=""))
            Migrator(settings).up()
            with run_sentinels(require_program(program), make_directory) as sentinels:
                outcomes = run_faults(settings, sentinels, folder)
            try:
                with (
                    run_host() as host,
                    run_sentinels(require_program(program), make_directory, host=host) as sentinels,
                ):
                    outcomes += run_faults(settings, sentinels, make_directory(), faults=FAULTS_OF_HOST)
            except HostNotPossible as error:
                console.print(f"skipped: {next(iter(FAULTS_OF_HOST))}: {error}")
    show(outcomes, console)
    sys.exit(int(not all(outcome.is_fine for outcome in outcomes)))


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """Print one table row for each fault, then every lost write and some stale reads."""
    table = Table(
        "fault",
        "reads",
        "writes",
        "errors",
        "slowest call",
        "elected after",
        "healed after",
        "lost",
        "stale",
        box=None,
    )
    for fault, counts, elected, healed, lost in outcomes:
        figures = (f"{counts.reads:,}", f"{counts.writes:,}", f"{counts.errors:,}")
        times = tuple(f"{seconds:.1f} s" for seconds in (counts.slowest_seconds, elected, healed))
        table.add_row(fault, *figures, *times, str(len(lost)), f"{counts.stale:,}")
    console.print(table)
    for outcome in outcomes:
        for text in (*outcome.lost, *outcome.counts.examples):
            console.print(text, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
