"""`python -m tests.coherence.soak --seconds N`: threads read and write for N seconds; every read is checked.

Owns the command line, the teams of processes and the printed table. The command exits with 1 when a read was
stale. The reads and writes are made by `tests.coherence.load`.
"""

import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table

from core import Settings
from core.migration import Migrator
from core.testing import ValkeyServer, run_postgres, run_valkey
from tests.coherence.conftest import make_fleet_settings
from tests.coherence.fleet import PATIENCE_SECONDS, run_fleet
from tests.coherence.load import PLAYERS, Counts, Ledger, Team
from tests.coherence.mutants import MUTANTS
from tests.replicas import ReplicaPair, disturbed, run_replica

# Threads of one process share a near cache and single-flight; processes share only Redis.
TEAMS = (Team(processes=1, threads=8), Team(processes=3, threads=4))
DEFAULT_SECONDS = 120.0
# Each thread gets a connection. The long timeout keeps a busy machine from bypassing Redis.
LIMITS = {"database_connection_limit": 8, "redis_timeout": 2_000}


class TeamResult(NamedTuple):
    """A team of processes and the counts of its reads and writes."""

    team: Team
    counts: Counts


def run_team(
    settings: Settings, valkey: ValkeyServer, team: Team, *, seconds: float, mutant: str | None = None
) -> Counts:
    """Read and write one game in every thread of a team; return the counts of all its processes."""
    with (
        tempfile.TemporaryDirectory(prefix="echo-markets-soak-") as folder,
        run_fleet(settings, valkey, [mutant] * team.processes) as fleet,
    ):
        game = fleet.start_game(PLAYERS)
        path = Path(folder) / "versions"
        Ledger.create(path)
        for number, member in enumerate(fleet.members):
            member.send("load", game, path, team._replace(process=number), seconds)
        patience = seconds + PATIENCE_SECONDS
        return add_up(member.receive(patience_seconds=patience) for member in fleet.members)


def add_up(parts: Iterable[Counts]) -> Counts:
    """Return the summed counts of several processes, with the slowest call of all."""
    reads, writes, errors, stale, examples, slowest = zip(*parts, strict=True)
    found = list(chain.from_iterable(examples))
    return Counts(sum(reads), sum(writes), sum(errors), sum(stale), found, max(slowest))


@click.command()
@click.option("--seconds", type=click.FloatRange(min=1), default=DEFAULT_SECONDS, show_default=True)
@click.option("--mutant", type=click.Choice(list(MUTANTS)), help="Remove a safeguard, to see the soak fail.")
@click.option("--replica", is_flag=True, help="Read from a replica that is paused, delayed and cut off.")
def main(seconds: float, mutant: str | None, *, replica: bool) -> None:
    """Start PostgreSQL and Valkey, read and write leaderboards and portfolios, and look for stale reads."""
    Settings.model_config["env_file"] = None
    with tempfile.TemporaryDirectory(prefix="echo-markets-soak-") as folder, ExitStack() as stack:
        postgres = stack.enter_context(run_postgres(Path(folder)))
        valkey = stack.enter_context(run_valkey(Path(folder)))
        settings = make_fleet_settings(postgres.url(), valkey).model_copy(update=LIMITS)
        Migrator(settings).up()
        if replica:
            pair = ReplicaPair(postgres, stack.enter_context(run_replica(Path(folder) / "replica", postgres)))
            settings = settings.model_copy(
                update={"database_replica_urls": pair.settings(valkey).database_replica_urls}
            )
            stack.enter_context(disturbed(pair))
        results = [
            TeamResult(team, run_team(settings, valkey, team, seconds=seconds / len(TEAMS), mutant=mutant))
            for team in TEAMS
        ]
    show(results, Console())
    sys.exit(int(any(result.counts.stale for result in results)))


def show(results: Iterable[TeamResult], console: Console) -> None:
    """Print one table row for each team, then some stale reads and errors."""
    table = Table("processes", "threads each", "reads", "writes", "errors", "stale", box=None)
    for team, counts in results:
        figures = (counts.reads, counts.writes, counts.errors, counts.stale)
        table.add_row(str(team.processes), str(team.threads), *(f"{figure:,}" for figure in figures))
    console.print(table)
    for result in results:
        for text in result.counts.examples:
            console.print(text, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
