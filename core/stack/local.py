"""The stack as supervised processes on this machine, with embedded servers.

Starts and stops the programs in the order of `start_order`, waits until each is healthy, and cleans up after
a crash.
"""

import contextlib
import signal
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

import psutil
from rich.console import Console
from rich.table import Table

from core.errors import StackError
from core.settings import Settings
from core.settings.database_url import add_password
from core.stack.demo_data import create_database, load_demo_data, run_step
from core.stack.embedded_servers import find_postgres_programs, find_valkey_program
from core.stack.folder import CONTENTS, StackFolder
from core.stack.ports import check_ports
from core.stack.processes import (
    find_process,
    find_strays,
    is_alive,
    read_last_lines,
    stop_process,
    wait_until,
)
from core.stack.programs import ADMINISTRATION, Deployment, answers, find_address, find_administrator_url
from core.stack.settings import DATABASE, StackSettings, refuse_other_secrets
from core.stack.stack import SHOWN_LOG_LINES, Stack
from core.stack.stack_env import build_environment, find_secret
from core.stack.start_order import (
    APPLICATIONS,
    PORT_SETTINGS,
    REPLICA,
    SERVERS,
    START_ORDER,
    STOP_SECONDS,
    STOP_SIGNALS,
    list_programs,
)
from core.stack.supervisor import ProgramState, Supervisor, write_files

SERVER_PROGRAMS = ("valkey-server", "postgres")  # the names of the server processes in the operating system
# a cold start takes 10 s; a machine under load may need nine times as long
HEALTHY_SECONDS = 90.0


class ProgramHealth(NamedTuple):
    """One row of the table that `status` prints."""

    name: str
    state: str
    pid: int | None
    is_healthy: bool


class LocalStack(Stack):
    """The stack of one checkout, as processes on this machine without containers."""

    program_noun = "program"
    program_names = (*START_ORDER, "supervisor")

    def __init__(self, folder: StackFolder, console: Console) -> None:
        super().__init__(folder, console)
        self._supervisor = Supervisor(folder)

    def _up(self, settings: StackSettings, *, backup: Path | None) -> None:
        problem = self.folder.find_disk_problem()
        if problem is not None:
            raise StackError(f"the stack could not write: {problem}")
        with self.folder.lock():
            for name in resume_paused(self.folder):
                self.print_line(f"{name} was paused by a signal and runs again")
            if self._runs_with(settings) and all(item.is_healthy for item in self._inspect()):
                self.print_line("already running, nothing to do")
            else:
                if not self._runs_with(settings) and self._stop():
                    self.print_line("stopped the programs of an earlier start")
                self._check_ports(settings)
                self._start(settings, backup=backup)
            self._show_addresses(self.folder.recorded())

    def down(self) -> None:
        """Stop all programs in reverse order, also those whose supervisor was killed. The data is kept."""
        if not self.folder.path.exists() and not self._find_strays():
            self.print_line("nothing is running")
            return
        with self.folder.lock():
            self.print_line("stopped, the data is kept" if self._stop() else "nothing is running")

    def remove_data(self) -> None:
        """Stop all programs and remove the data."""
        if not self.folder.path.exists() and not self._find_strays():
            self.print_line("nothing to remove")
            return
        with self.folder.lock():
            self._stop()
            size = self.folder.size_bytes()
            self.folder.remove()
        self.print_line(f"removed {self.folder.path}: {CONTENTS}, {size / 1e6:.1f} MB")

    def _show_programs(self, recorded: Mapping[str, str]) -> bool:
        programs = self._inspect()
        table = Table("program", "state", "healthy", "pid", "address", box=None)
        for item in programs:
            answer = "yes" if item.is_healthy else "no"
            pid = "" if item.pid is None else str(item.pid)
            table.add_row(item.name, item.state.lower(), answer, pid, find_address(item.name, recorded))
        self._console.print(table)
        if not self._supervisor.is_running():
            strays = ", ".join(process.name() for process in self._find_strays())
            rest = f", but its programs still run ({strays})" if strays else ""
            self.print_line(f"the supervisor has ended{rest}; `make up` repairs it")
        return all(item.is_healthy for item in programs)

    def _show_logs(self, name: str | None, *, follow: bool) -> None:
        files = [self.folder.log_file(one) for one in ([name] if name else self.program_names)]
        existing = [str(file) for file in files if file.exists()]
        if existing:
            # with -F, tail continues after the rotation of a log file; it names each file if there are
            # several
            command = ["tail", "-n", str(SHOWN_LOG_LINES), *(["-F"] if follow else []), "--", *existing]
            subprocess.run(command, check=False)

    def _start(self, settings: StackSettings, *, backup: Path | None) -> None:
        with self._console.status("preparing the servers"):
            deployment = Deployment.prepare(settings, self.folder)
        recorded = deployment.environment()
        refuse_other_secrets(self.folder.root, recorded)
        # check the settings here: the programs would report an invalid value only in their log files
        known = {name.lower(): value for name, value in recorded.items()}
        Settings.load(**{name: known[name] for name in known.keys() & Settings.model_fields.keys()})
        python = {"PYTHONPATH": str(self.folder.root), "PYTHONUNBUFFERED": "1"}
        environment = {**build_environment(recorded), **python}
        self.folder.record(recorded)
        if not self._supervisor.is_running():
            write_files(self.folder, deployment.programs())
            self._supervisor.start(
                {name: environment[name] for name in environment if name not in ADMINISTRATION}
            )
        self._start_programs(SERVERS)
        if settings.replicas:
            replica = self._supervisor.states().get(REPLICA)
            if replica is None or replica.pid is None:
                deployment.copy_primary()
            self._start_programs([REPLICA])
        create_database(find_administrator_url(recorded), DATABASE)
        run_step("roles", environment=environment, root=self.folder.root)
        if backup is not None:
            self._fill(settings, backup)
        run_step("migrate", "up", environment=environment, root=self.folder.root)
        self.print_line("the schema is up to date")
        owner_url = add_password(recorded["DIRECT_URL"], find_secret(recorded, "DIRECT_PASSWORD"))
        load_demo_data(environment, owner_url=owner_url, root=self.folder.root, settings=settings)
        self.print_line("the demo data is loaded")
        self._start_programs(APPLICATIONS)

    def _start_programs(self, names: Iterable[str]) -> None:
        for name in names:
            self._supervisor.start_program(name)
        waiting = set(names)

        def is_done() -> bool:
            for item in self._inspect():
                if item.state == "FATAL" and item.name in waiting:
                    self._give_up([item.name])
                if item.is_healthy and item.name in waiting:
                    waiting.remove(item.name)
                    self.print_line(f"{item.name} is up")
            return not waiting

        with self._console.status(f"starting {', '.join(names)}"):
            if not wait_until(is_done, seconds=HEALTHY_SECONDS):
                self._give_up(sorted(waiting))

    def _give_up(self, names: list[str]) -> NoReturn:
        shown = "\n".join(f"{name}: {read_last_lines(self.folder.log_file(name))}" for name in names)
        remedy = "`make logs` shows more, `make down` stops the rest"
        raise StackError(f"not healthy: {', '.join(names)}; {remedy}\n{shown}")

    def _inspect(self) -> list[ProgramHealth]:
        """Return the state and health of every program. The list is empty if no stack is recorded."""
        recorded = self.folder.recorded()
        if not recorded:
            return []
        states = self._supervisor.states()
        stopped = ProgramState(name="", state="STOPPED", pid=None)
        found = {name: states.get(name, stopped) for name in list_programs(recorded)}
        return [
            ProgramHealth(name, item.state, item.pid, _is_running(item) and answers(name, recorded))
            for name, item in found.items()
        ]

    def _runs_with(self, settings: StackSettings) -> bool:
        recorded, chosen = self.folder.recorded(), settings.environment("local")
        return (
            self._supervisor.is_running()
            and recorded.items() >= chosen.items()
            and ("REPLICAS" in recorded) == ("REPLICAS" in chosen)
        )

    def _stop(self) -> bool:
        """Stop the supervisor, its programs and stray processes. Return whether any of them was running."""
        with self._console.status("stopping"):
            was_running = self._supervisor.end()
            for name in reversed(START_ORDER):
                file = self.folder.pid_file(name)
                process = find_process(file, root=self.folder.root)
                if process is not None:
                    was_running = True
                    stop_process(process, stop_signal=STOP_SIGNALS[name], seconds=STOP_SECONDS)
                file.unlink(missing_ok=True)
            # search twice: the programs of a supervisor are found only after the supervisor has ended
            for _ in range(2):
                for process in self._find_strays():
                    was_running = True
                    stop_process(
                        process,
                        stop_signal=STOP_SIGNALS.get(process.name(), signal.SIGTERM),
                        seconds=STOP_SECONDS,
                    )
        self.folder.forget_record()
        return was_running

    def _find_strays(self) -> list[psutil.Process]:
        """Return the running processes of this stack, found without pid files. Servers come last."""
        postgres, valkey = find_postgres_programs() / "bin" / "postgres", find_valkey_program()
        found = find_strays(
            self.folder.root,
            servers=self.folder.servers.resolve(),
            programs=(postgres.resolve(), valkey.resolve()),
        )
        return sorted(found, key=lambda process: process.name() in SERVER_PROGRAMS)

    def _describe_unrecorded(self) -> str:
        strays = ", ".join(process.name() for process in self._find_strays())
        if not strays:
            return super()._describe_unrecorded()
        return f"{self.folder.stack_env} is missing, but {strays} run; `make down` stops them"

    def _check_ports(self, settings: StackSettings) -> None:
        """Raise `StackError` if another program uses a port that a stopped program of the stack needs."""
        states = self._supervisor.states()
        running = {name for name, item in states.items() if item.pid is not None}
        names = [setting for name, setting in PORT_SETTINGS.items() if name not in running]
        ports = settings.ports("local")
        names = [name for name in names if name in ports]
        hosts = {"EXPORTER_PORT": settings.exporter_host, "DASHBOARD_PORT": settings.dashboard_host}
        check_ports({name: ports[name] for name in names}, hosts=hosts)


def resume_paused(folder: StackFolder) -> list[str]:
    """Resume programs that are paused by SIGSTOP, for example by a killed drill. Return their names."""
    resumed = []
    for name in START_ORDER:
        process = find_process(folder.pid_file(name), root=folder.root)
        with contextlib.suppress(psutil.NoSuchProcess):
            if process is not None and process.status() == psutil.STATUS_STOPPED:
                process.resume()
                resumed.append(name)
    return resumed


def _is_running(item: ProgramState) -> bool:
    """Return whether a program runs.

    In its first seconds, while supervisord reports STARTING, only a program with a probe counts as running,
    because the probe shows whether the program works. The process itself is also checked, because supervisord
    notices late that a process has ended.
    """
    try:
        has_process = item.pid is not None and is_alive(psutil.Process(item.pid))
    except psutil.NoSuchProcess:
        return False
    return has_process and (
        item.state == "RUNNING" or (item.state == "STARTING" and item.name in PORT_SETTINGS)
    )
