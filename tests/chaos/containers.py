"""`python -m tests.chaos.containers`: SIGKILL for the servers of the running containers, under load.

Run in a checkout whose `make up MODE=docker` is up. Owns the two faults: `docker kill -s KILL`, which for the
engine is an administrator's decision, so that `docker start` repairs it.
"""

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import click
from rich.console import Console

from core import EnhancedDatabaseService, Settings, open_service
from tests.chaos.load import run_load
from tests.chaos.local import TABLE_COLUMNS
from tests.chaos.report import AFTER_SECONDS, HOLD_SECONDS, Fault, run_faults, show

SERVERS = ("postgres", "redis")
HEAL_SECONDS = 60.0


@contextmanager
def killed(server: str) -> Iterator[None]:
    """Kill a server's container for the length of a `with` block."""
    found = subprocess.run(
        ["docker", "compose", "ps", "--all", "--quiet", server], capture_output=True, text=True, check=True
    )
    container = found.stdout.strip()
    subprocess.run(["docker", "kill", "-s", "KILL", container], capture_output=True, check=True)
    yield
    subprocess.run(["docker", "start", container], capture_output=True, check=True)


def serves(service: EnhancedDatabaseService) -> bool:
    """Say whether PostgreSQL and Redis serve; a pending migration of the checkout does not count."""
    health = service.health()
    return health.database == health.redis == "healthy"


@click.command()
@click.option("--seconds", type=click.FloatRange(min=10), default=60.0, show_default=True)
def main(seconds: float) -> None:
    """Kill PostgreSQL and Redis in turn for so long; exit status 1 when a write is lost or a read stale."""
    console = Console(width=None if sys.stdout.isatty() else TABLE_COLUMNS)
    settings = Settings.load()
    rounds = math.ceil(seconds / len(SERVERS) / (HOLD_SECONDS + AFTER_SECONDS))
    faults = [
        Fault(f"{server} killed, docker start", partial(killed, server), HEAL_SECONDS) for server in SERVERS
    ]
    with open_service(settings) as service, run_load(settings) as load:
        rows = run_faults(faults * rounds, load, is_healthy=partial(serves, service), console=console)
    show(rows, load.problems, console)
    sys.exit(int(not all(row.has_passed for row in rows)))


if __name__ == "__main__":
    main()
