"""`python -m tests.chaos.failover`: a primary and a standby of its own, and what a failover does under load.

Owns the servers and the faults. `DATABASE_URL` of the load names both servers, the first primary first, and a
commit is acknowledged when the standby has it.
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
from tests.chaos.report import Fault, Row, run_faults, show
from tests.hosts import Host, HostNotPossible, run_host
from tests.patience import HEAL_SECONDS
from tests.replicas import hung
from tests.replication import DATABASE, Pair

# From the promotion on, until every reader and the writer have got all their answers.
# A primary that is cut off is found dead by a timeout of two seconds, and so is each new connection to it.
TIMEOUT_SECONDS = 15.0
# Of the connection that compares: with the defaults a primary that is cut off would hold it for 30 s.
SHORT_TIMEOUTS = {"database_query_timeout": 3_000, "database_connect_timeout": 2_000}

# A player whom only the former primary has.
LOST_USERNAME = "lost"
CUT_OFF = "primary's host cut off, standby promoted"


@contextmanager
def kill_and_promote(pair: Pair) -> Iterator[None]:
    """Kill the primary; the fault ends with the promotion of the standby."""
    pair.kill_primary()
    yield
    pair.promote()


@contextmanager
def cut_off_and_promote(pair: Pair) -> Iterator[None]:
    """Stop the primary, which keeps its connections and answers nothing, and promote the standby."""
    send_signal(list_tree(psutil.Process(pair.primary.pid)), signal.SIGSTOP)
    yield
    pair.promote()


@contextmanager
def let_former_primary_go_on(pair: Pair) -> Iterator[None]:
    """Let a primary that was cut off go on with the connections that it had."""
    send_signal(list_tree(psutil.Process(pair.primary.pid)), signal.SIGCONT)
    yield


@contextmanager
def cut_off_host_and_promote(pair: Pair, host: Host) -> Iterator[None]:
    """Cut the primary's host off, promote the standby, and let the former primary commit alone."""
    host.cut_off()
    yield
    pair.promote()
    pair.stop_waiting_for_standby()


@contextmanager
def reconnect_former_primary(pair: Pair, host: Host) -> Iterator[None]:
    """Let packets through again, to a former primary that accepts writes on its old connections too."""
    host.reconnect()
    with open_cursor(pair.primary.url(DATABASE)) as cursor:
        cursor.execute(f"INSERT INTO users (username) VALUES ('{LOST_USERNAME}')")
    yield


@contextmanager
def start_former_primary(pair: Pair) -> Iterator[None]:
    """Start the former primary as it was: it accepts writes, and comes first in the URL."""
    pair.start_former_primary()
    yield


def list_faults(pair: Pair) -> list[Fault]:
    """Return the faults in the order in which they happen."""
    return [
        Fault("synchronous standby paused", partial(hung, pair.standby), TIMEOUT_SECONDS),
        Fault("primary killed, standby promoted", partial(kill_and_promote, pair), HEAL_SECONDS),
        Fault("former primary started again", partial(start_former_primary, pair), HEAL_SECONDS),
    ]


def list_faults_of_cut_off(pair: Pair) -> list[Fault]:
    """Return those of a primary that is alive and out of reach."""
    return [
        Fault("primary cut off, standby promoted", partial(cut_off_and_promote, pair), TIMEOUT_SECONDS),
        Fault("former primary goes on", partial(let_former_primary_go_on, pair), HEAL_SECONDS),
    ]


def list_faults_of_host(pair: Pair, host: Host) -> list[Fault]:
    """Return those of a primary whose host is cut off and comes back."""
    return [
        Fault(CUT_OFF, partial(cut_off_host_and_promote, pair, host), TIMEOUT_SECONDS),
        Fault("host reconnected", partial(reconnect_former_primary, pair, host), HEAL_SECONDS),
    ]


@click.command()
def main() -> None:
    """Fail over under load; exit status 1 when a write is lost, a read stale, or nothing heals."""
    console = Console(width=None if sys.stdout.isatty() else TABLE_COLUMNS)
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="echo-markets-failover-")))
        numbers = itertools.count()

        def make_directory() -> Path:
            directory = root / str(next(numbers))
            directory.mkdir()
            return directory

        valkey = stack.enter_context(run_valkey(make_directory()))
        rows: list[Row] = []
        wrong: list[str] = []

        def run(pair: Pair, faults: list[Fault]) -> None:
            pair.make_synchronous()
            clear_cache(valkey)
            with run_load(build_settings(pair.url.get_secret_value(), valkey, **SHORT_TIMEOUTS)) as load:
                rows.extend(run_faults(faults, load, is_healthy=load.can_check_rows, console=console))
            wrong.extend(load.problems)

        for list_them in (list_faults, list_faults_of_cut_off):
            pair = Pair(stack, make_directory)
            run(pair, list_them(pair))
        try:
            host = stack.enter_context(run_host())
        except HostNotPossible as error:
            rows.append(Row(CUT_OFF, Figures(), None, str(error)))
        else:
            pair = Pair(stack, make_directory, host=host)
            run(pair, list_faults_of_host(pair, host))
        show(rows, wrong, console)
    sys.exit(int(not all(row.has_passed for row in rows)))


if __name__ == "__main__":
    main()
