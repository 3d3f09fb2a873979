"""`python -m tests.chaos.local`: cause every fault in the running local stack of this folder, under load.

Run it in a checkout after `make up MODE=local`; `python -m tests.chaos` starts its own stack instead. Owns
the faults. The load has the settings of the stack's programs, so it connects with the application role.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import StringIO
from pathlib import Path

import click
import psutil
import psycopg2
import redis
from rich.console import Console

from core import Settings
from core.errors import StackError
from core.stack.embedded_servers import open_cursor
from core.stack.folder import StackFolder
from core.stack.local import LocalStack
from core.stack.processes import find_process
from core.stack.programs import find_administrator_url, find_superuser_url
from core.stack.settings import StackSettings
from core.stack.stack_env import find_secret
from core.stack.start_order import START_ORDER
from tests.chaos.load import run_load
from tests.chaos.report import Fault, print_results, run_faults
from tests.coherence.mutants import MUTANTS

PAUSED_HEAL_SECONDS = 30.0
KILLED_HEAL_SECONDS = 60.0  # the start of the dashboard alone takes 10 s
REPAIR_SECONDS = 120.0  # `make up` starts every program again
TABLE_COLUMNS = 140
BLOCK = bytes(1_000_000)

TERMINATE_BACKENDS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""


class FaultInjector:
    """Causes faults in the local stack of a folder."""

    def __init__(self, folder: StackFolder) -> None:
        self.folder = folder
        self.stack = LocalStack(folder, Console(file=StringIO()))

    def list_faults(self) -> list[Fault]:
        """Return every fault, the mildest first."""
        full = None if self.folder.servers.is_mount() else "the data folder has no small disk of its own"
        return [
            *(
                Fault(f"{name} paused", partial(self.pause, name), PAUSED_HEAL_SECONDS)
                for name in START_ORDER
            ),
            Fault("supervisor paused", partial(self.pause, "supervisor"), PAUSED_HEAL_SECONDS),
            Fault("everything paused", self.pause_everything, PAUSED_HEAL_SECONDS),
            Fault("connections to postgres severed", self.sever_postgres, PAUSED_HEAL_SECONDS),
            Fault("connections to valkey severed", self.sever_valkey, PAUSED_HEAL_SECONDS),
            Fault("data folder full", self.fill_disk, KILLED_HEAL_SECONDS, skip=full),
            *(
                Fault(f"{name} killed", partial(self.kill, name), KILLED_HEAL_SECONDS, 0.0)
                for name in START_ORDER
            ),
            Fault("supervisor killed, make up", self.kill_supervisor, REPAIR_SECONDS),
            Fault("everything killed, make up", self.kill_everything, REPAIR_SECONDS),
        ]

    def is_healthy(self) -> bool:
        """Return whether `make status` reports a healthy stack."""
        return self.stack.status()

    @contextmanager
    def pause(self, name: str) -> Iterator[None]:
        """Pause a program and its descendants with SIGSTOP."""
        process = self._find(name)
        # pause only the supervisor's own process, because its descendants are the other programs
        with paused([process] if name == "supervisor" else list_tree(process)):
            yield

    @contextmanager
    def pause_everything(self) -> Iterator[None]:
        """Pause the supervisor and every program with SIGSTOP."""
        with paused(list_tree(self._find("supervisor"))):
            yield

    @contextmanager
    def kill(self, name: str) -> Iterator[None]:
        """Kill a program, as the kernel does when memory runs out; the supervisor starts it again."""
        self._find(name).kill()
        yield

    @contextmanager
    def kill_supervisor(self) -> Iterator[None]:
        """Kill the supervisor while its programs keep running; repair the stack with `make up`."""
        with self.kill("supervisor"):
            yield
        self._make_up()

    @contextmanager
    def kill_everything(self) -> Iterator[None]:
        """Kill every process of the stack at once, as a power cut does; repair it with `make up`."""
        send_signal(list_tree(self._find("supervisor")), signal.SIGKILL)
        yield
        self._make_up()

    @contextmanager
    def sever_postgres(self) -> Iterator[None]:
        """Terminate all client connections to PostgreSQL ten times, with a pause of 0.2 s each time."""
        url = find_administrator_url(self.folder.recorded())

        def terminate() -> None:
            with open_cursor(url) as cursor:
                cursor.execute(TERMINATE_BACKENDS)

        _repeat(terminate)
        yield

    @contextmanager
    def sever_valkey(self) -> Iterator[None]:
        """Close all client connections to Valkey ten times, with a pause of 0.2 s each time."""
        recorded = self.folder.recorded()
        password = find_secret(recorded, "REDIS_PASSWORD")
        with redis.Redis(port=int(recorded["VALKEY_PORT"]), password=password) as client:
            _repeat(lambda: client.client_kill_filter(_type="normal", skipme=True))
        yield

    @contextmanager
    def fill_disk(self) -> Iterator[None]:
        """Fill the disk of the servers completely, and let PostgreSQL use up its existing WAL files."""
        ballast = self.folder.servers / "ballast"
        try:
            # until a write fails: the free space changes, because the servers write at the same time
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(BLOCK)
            with suppress(psycopg2.Error), open_cursor(find_superuser_url(self.folder.recorded())) as cursor:
                _repeat(lambda: cursor.execute("SELECT pg_switch_wal()"))
            yield
        finally:
            ballast.unlink(missing_ok=True)

    def _find(self, name: str) -> psutil.Process:
        folder = self.folder
        file = folder.supervisor_pid if name == "supervisor" else folder.pid_file(name)
        process = find_process(file, root=folder.root)
        if process is None:
            raise StackError(f"{name} does not run; `make up` starts it")
        return process

    def _make_up(self) -> None:
        self.stack.up(StackSettings.load_for(self.folder.root))


def list_tree(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and all its descendants."""
    return [process, *process.children(recursive=True)]


def send_signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to each process that still exists."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@contextmanager
def paused(processes: list[psutil.Process]) -> Iterator[None]:
    """Pause processes with SIGSTOP for the length of a `with` block."""
    try:
        send_signal(processes, signal.SIGSTOP)
        yield
    finally:
        send_signal(processes, signal.SIGCONT)


def _repeat(action: Callable[[], object], *, times: int = 10, pause_seconds: float = 0.2) -> None:
    for _ in range(times):
        action()
        time.sleep(pause_seconds)


@click.command()
@click.option("--only", multiple=True, help="Name of a fault; without it, every fault.")
@click.option("--mutant", type=click.Choice(list(MUTANTS)), help="Remove a safeguard, to see the run fail.")
def main(only: tuple[str, ...], mutant: str | None) -> None:
    """Cause every fault under load; exit with 1 if a write is lost, a read is stale or healing fails."""
    console = Console(width=None if sys.stdout.isatty() else TABLE_COLUMNS)
    injector = FaultInjector(StackFolder(Path.cwd()))
    faults = injector.list_faults()
    unknown = set(only) - {fault.name for fault in faults}
    if unknown:
        raise click.UsageError(f"there is no fault {', '.join(sorted(unknown))}")
    if injector.folder.recorded().get("MODE") != "local" or not injector.is_healthy():
        raise click.ClickException("no healthy local stack runs here; `make status` says why")
    with run_load(Settings.load(), mutant=mutant) as load:
        chosen = [fault for fault in faults if not only or fault.name in only]
        results = run_faults(chosen, load, is_healthy=injector.is_healthy, console=console)
    print_results(results, load.problems, console)
    sys.exit(int(not all(result.has_passed for result in results)))


if __name__ == "__main__":
    main()
