"""`python -m tests.chaos.containers`: kill the containers of PostgreSQL and Redis under load.

Run it in a checkout after `make up MODE=docker`. Owns the two faults. Docker does not restart a container
that `docker kill` has ended, so each fault ends with `docker start`.
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
from tests.chaos.report import HOLD_SECONDS, OBSERVE_SECONDS, Fault, print_results, run_faults

SERVERS = ("postgres", "redis")
HEAL_SECONDS = 60.0


@contextmanager
def killed(server: str) -> Iterator[None]:
    """Kill the container of a server; start it again at the end of the `with` block."""
    found = subprocess.run(
        ["docker", "compose", "ps", "--all", "--quiet", server], capture_output=True, text=True, check=True
    )
    container = found.stdout.strip()
    subprocess.run(["docker", "kill", "-s", "KILL", container], capture_output=True, check=True)
    yield
    subprocess.run(["docker", "start", container], capture_output=True, check=True)


def is_serving(service: EnhancedDatabaseService) -> bool:
    """Return whether PostgreSQL and Redis are healthy; a pending migration makes no difference."""
    health = service.health()
    return health.database == health.redis == "healthy"


@click.command()
@click.option("--seconds", type=click.FloatRange(min=10), default=60.0, show_default=True)
def main(seconds: float) -> None:
    """Kill PostgreSQL and Redis in turn; exit with 1 if a write is lost, a read is stale or healing fails."""
    console = Console(width=None if sys.stdout.isatty() else TABLE_COLUMNS)
    settings = Settings.load()
    rounds = math.ceil(seconds / len(SERVERS) / (HOLD_SECONDS + OBSERVE_SECONDS))
    faults = [
        Fault(f"{server} killed, docker start", partial(killed, server), HEAL_SECONDS) for server in SERVERS
    ]
    with open_service(settings) as service, run_load(settings) as load:
        results = run_faults(faults * rounds, load, is_healthy=partial(is_serving, service), console=console)
    print_results(results, load.problems, console)
    sys.exit(int(not all(result.has_passed for result in results)))


if __name__ == "__main__":
    main()
