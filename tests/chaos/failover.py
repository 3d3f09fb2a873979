"""`python -m tests.chaos.failover`: start a primary and a standby, and fail over under load.

Owns the servers and the faults. The `DATABASE_URL` of the load names both servers, the first primary first. A
commit is acknowledged once the standby has it.
"""

import itertools
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import click
import psutil
from rich.console import Console

from core.stack.embedded_servers import open_cursor
from core.testing import build_settings, clear_cache, run_valkey
from tests.chaos.load import Figures, run_load
from tests.chaos.local import TABLE_COLUMNS, list_tree, send_signal
from tests.chaos.report import Fault, FaultResult, print_results, run_faults
from tests.hosts import Host, HostNotPossible, run_host
from tests.patience import HEAL_SECONDS
from tests.replicas import hung
from tests.replication import DATABASE, Pair

# Limit for healing after a server hangs or is cut off. Each open connection to this server, and each attempt
# to connect to it, fails only after a timeout of two seconds.
HANG_HEAL_SECONDS = 15.0
# Timeouts of the service that compares the stored rows. With the defaults, a primary that is cut off would
# block this service for 30 s.
SHORT_TIMEOUTS = {"database_query_timeout": 3_000, "database_connect_timeout": 2_000}

# Username of a player that only the database of the former primary has.
LOST_USERNAME = "lost"
CUT_OFF = "primary's host cut off, standby promoted"


@contextmanager
def kill_and_promote(pair: Pair) -> Iterator[None]:
    """Kill the primary; promote the standby at the end of the `with` block."""
    pair.kill_primary()
    yield
    pair.promote()


@contextmanager
def cut_off_and_promote(pair: Pair) -> Iterator[None]:
    """Pause the primary with SIGSTOP, so that its connections stay open; then promote the standby."""
    send_signal(list_tree(psutil.Process(pair.primary.pid)), signal.SIGSTOP)
    yield
    pair.promote()


@contextmanager
def resume_former_primary(pair: Pair) -> Iterator[None]:
    """Resume the paused former primary, whose old connections are still open."""
    send_signal(list_tree(psutil.Process(pair.primary.pid)), signal.SIGCONT)
    yield


@contextmanager
def cut_off_host_and_promote(pair: Pair, host: Host) -> Iterator[None]:
    """Cut the primary's host off, promote the standby, and let the former primary commit without it."""
    host.cut_off()
    yield
    pair.promote()
    pair.stop_waiting_for_standby()


@contextmanager
def reconnect_former_primary(pair: Pair, host: Host) -> Iterator[None]:
    """Reconnect the host of the former primary, and insert a row there, because it still accepts writes."""
    host.reconnect()
    with open_cursor(pair.primary.url(DATABASE)) as cursor:
        cursor.execute(f"INSERT INTO users (username) VALUES ('{LOST_USERNAME}')")
    yield


@contextmanager
def start_former_primary(pair: Pair) -> Iterator[None]:
    """Start the killed former primary again: it accepts writes, and it comes first in the URL."""
    pair.start_former_primary()
    yield


def list_faults(pair: Pair) -> list[Fault]:
    """Return three faults: the standby is paused, the primary is killed, the primary is started again."""
    return [
        Fault("synchronous standby paused", partial(hung, pair.standby), HANG_HEAL_SECONDS),
        Fault("primary killed, standby promoted", partial(kill_and_promote, pair), HEAL_SECONDS),
        Fault("former primary started again", partial(start_former_primary, pair), HEAL_SECONDS),
    ]


def list_faults_of_cut_off(pair: Pair) -> list[Fault]:
    """Return two faults: the primary is paused until the standby is promoted, then it is resumed."""
    return [
        Fault("primary cut off, standby promoted", partial(cut_off_and_promote, pair), HANG_HEAL_SECONDS),
        Fault("former primary goes on", partial(resume_former_primary, pair), HEAL_SECONDS),
    ]


def list_faults_of_host(pair: Pair, host: Host) -> list[Fault]:
    """Return two faults: the host of the primary is cut off, then it is reconnected."""
    return [
        Fault(CUT_OFF, partial(cut_off_host_and_promote, pair, host), HANG_HEAL_SECONDS),
        Fault("host reconnected", partial(reconnect_former_primary, pair, host), HEAL_SECONDS),
    ]


@click.command()
def main() -> None:
    """Fail over under load; exit with 1 if a write is lost, a read is stale or healing fails."""
    console = Console(width=None if sys.stdout.isatty() else TABLE_COLUMNS)
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="echo-markets-failover-")))
        numbers = itertools.count()

        def make_directory() -> Path:
            directory = root / str(next(numbers))
            directory.mkdir()
            return directory

        valkey = stack.enter_context(run_valkey(make_directory()))
        results: list[FaultResult] = []
        problems: list[str] = []

        def run(pair: Pair, faults: list[Fault]) -> None:
            pair.make_synchronous()
            clear_cache(valkey)
            with run_load(build_settings(pair.url.get_secret_value(), valkey, **SHORT_TIMEOUTS)) as load:
                results.extend(run_faults(faults, load, is_healthy=load.can_check_rows, console=console))
            problems.extend(load.problems)

        for list_pair_faults in (list_faults, list_faults_of_cut_off):
            pair = Pair(stack, make_directory)
            run(pair, list_pair_faults(pair))
        try:
            host = stack.enter_context(run_host())
        except HostNotPossible as error:
            results.append(FaultResult(CUT_OFF, Figures(), None, str(error)))
        else:
            pair = Pair(stack, make_directory, host=host)
            run(pair, list_faults_of_host(pair, host))
        print_results(results, problems, console)
    sys.exit(int(not all(result.has_passed for result in results)))


if __name__ == "__main__":
    main()
