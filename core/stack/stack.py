"""The stack as supervised processes of this machine: up, down, status, logs, clean.

Owns the order of things. How a server is configured, how supervisord is talked
to and how a process is found again is the business of its siblings.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple, NoReturn

import psutil
from rich.console import Console
from rich.table import Table

from core.settings import Settings
from core.stack.configuration import StackSettings
from core.stack.demo_data import create_database, load_demo_data, run_step
from core.stack.errors import StackError
from core.stack.folder import StackFolder
from core.stack.log_files import last_lines, show_logs
from core.stack.ports import check_ports
from core.stack.processes import find_process, is_alive_pid, stop_process, wait_until
from core.stack.programs import (
    APPLICATIONS,
    DATABASE,
    NAMES,
    PORT_SETTINGS,
    SERVERS,
    STOP_SECONDS,
    STOP_SIGNALS,
    Plan,
    address,
    answers,
    log_file,
    pid_file,
)
from core.stack.stack_health import read_stack_health
from core.stack.supervision import write_files
from core.stack.supervisor import ProgramState, Supervisor

HEALTHY_SECONDS = 90.0  # a cold start takes ten; a loaded machine gets nine times that


class ProgramHealth(NamedTuple):
    """One line of `status`."""

    name: str
    state: str
    pid: int | None
    is_healthy: bool


class LocalStack:
    """The stack of one checkout, without a container engine."""

    def __init__(self, folder: StackFolder, console: Console) -> None:
        self._folder = folder
        self._console = console
        self._supervisor = Supervisor(folder)

    def up(self, settings: StackSettings) -> None:
        """Start what does not run and wait until everything is healthy; running parts are left alone.

        Raises `StackError` when a port is taken, before anything is started, or
        when a part does not become healthy.
        """
        with self._folder.lock():
            for name in resume_stopped(self._folder):
                self._say(f"{name} was stopped by a signal and goes on")
            if self._runs_with(settings) and all(item.is_healthy for item in self._inspect()):
                self._say("already running, nothing to do")
            else:
                self._clear_remains(settings)
                self._check_ports(settings)
                self._start(settings)
            self._show_addresses()

    def down(self) -> None:
        """Stop everything in reverse order, also what a killed supervisor left behind; data is kept."""
        if not self._folder.path.exists():
            self._say("nothing is running")
            return
        with self._folder.lock():
            self._say("stopped, the data is kept" if self._stop() else "nothing is running")

    def status(self) -> bool:
        """Show every program and the health of the whole; say whether all is healthy."""
        health = self._inspect()
        if not health:
            self._say("not running; `make up` starts it")
            return False
        self._console.print(_status_table(health, self._folder.recorded()))
        whole = read_stack_health(self._folder.recorded())
        self._say(f"the stack is {whole}")
        if not self._supervisor.is_running():
            self._say("the supervisor has ended; `make up` repairs it")
        return whole.is_healthy and all(item.is_healthy for item in health)

    def logs(self, name: str | None, *, follow: bool) -> None:
        """Show the end of one program's output or of everyone's."""
        names = (*NAMES, "supervisor")
        if name is not None and name not in names:
            raise StackError(f"there is no program {name!r}; choose one of {', '.join(names)}")
        show_logs([log_file(self._folder, one) for one in ([name] if name else names)], follow=follow)

    def clean(self) -> None:
        """Stop everything and forget the data."""
        if not self._folder.path.exists():
            self._say("nothing to remove")
            return
        with self._folder.lock():
            self._stop()
            size = self._folder.size_bytes()
            self._folder.remove()
        self._say(f"removed {self._folder.path}: database, cache, metrics and logs, {size / 1e6:.1f} MB")

    def _start(self, settings: StackSettings) -> None:
        with self._console.status("preparing the servers"):
            plan = Plan.prepare(settings, self._folder)
        recorded = plan.environment()
        # what the programs would refuse is said now, not in a log file
        known = {name.lower(): value for name, value in recorded.items()}
        Settings.load(**{name: known[name] for name in known.keys() & Settings.model_fields.keys()})
        python = {"PYTHONPATH": str(self._folder.root), "PYTHONUNBUFFERED": "1"}
        environment = {**os.environ, **recorded, **python}
        self._folder.record(recorded)
        if not self._supervisor.is_running():
            write_files(self._folder, plan.programs())
            self._supervisor.start(environment)
        self._start_programs(SERVERS)
        self._fill(plan, environment)
        self._start_programs(APPLICATIONS)  # healthy servers were waited for before

    def _fill(self, plan: Plan, environment: Mapping[str, str]) -> None:
        create_database(plan.database_url("postgres"), DATABASE)
        root, settings = self._folder.root, plan.settings
        run_step("migrate", "up", environment=environment, root=root)
        self._say("the schema is up to date")
        load_demo_data(environment, root=root, players=settings.seed_players, sessions=settings.seed_sessions)
        self._say("the demo data is loaded")

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
                    self._say(f"{item.name} is up")
            return not waiting

        with self._console.status(f"starting {', '.join(names)}"):
            if not wait_until(is_done, seconds=HEALTHY_SECONDS):
                self._give_up(sorted(waiting))

    def _give_up(self, names: list[str]) -> NoReturn:
        shown = "\n".join(f"{name}: {last_lines(log_file(self._folder, name))}" for name in names)
        remedy = "`make logs` shows more, `make down` stops the rest"
        raise StackError(f"not healthy: {', '.join(names)}; {remedy}\n{shown}")

    def _inspect(self) -> list[ProgramHealth]:
        """Ask supervisord what runs and each program whether it works; empty when none was started."""
        recorded = self._folder.recorded()
        if not recorded:
            return []
        states = self._supervisor.states()
        stopped = ProgramState(name="", state="STOPPED", pid=None)
        found = {name: states.get(name, stopped) for name in NAMES}
        return [
            ProgramHealth(name, item.state, item.pid, _is_running(item) and answers(name, recorded))
            for name, item in found.items()
        ]

    def _runs_with(self, settings: StackSettings) -> bool:
        recorded = self._folder.recorded()
        return self._supervisor.is_running() and recorded.items() >= settings.environment("local").items()

    def _clear_remains(self, settings: StackSettings) -> None:
        """Leave either a supervisor with the present settings, or nothing."""
        if self._runs_with(settings):
            return
        if self._stop():
            self._say("stopped what was left of an earlier start")

    def _stop(self) -> bool:
        """End the supervisor and its programs, then those it can no longer end; say if there were any."""
        with self._console.status("stopping"):
            found = self._supervisor.end()
            for name in reversed(NAMES):
                file = pid_file(self._folder, name)
                process = find_process(file, root=self._folder.root)
                if process is not None:
                    found = True
                    stop_process(process, stop_signal=STOP_SIGNALS[name], seconds=STOP_SECONDS)
                file.unlink(missing_ok=True)
        self._folder.stack_env.unlink(missing_ok=True)
        return found

    def _check_ports(self, settings: StackSettings) -> None:
        """Raise `StackError` unless every program that has yet to start can listen."""
        states = self._supervisor.states()
        running = {name for name, item in states.items() if item.pid is not None}
        names = [setting for name, setting in PORT_SETTINGS.items() if name not in running]
        ports = settings.ports("local")
        hosts = {"EXPORTER_PORT": settings.exporter_host, "DASHBOARD_PORT": settings.dashboard_host}
        check_ports({name: ports[name] for name in names}, hosts=hosts)

    def _show_addresses(self) -> None:
        recorded = self._folder.recorded()
        exporter = address("exporter", recorded)
        table = Table.grid(padding=(0, 2))
        table.add_row("Dashboard", address("dashboard", recorded))
        table.add_row("Metrics", f"{exporter}/metrics")
        table.add_row("Health", f"{exporter}/api/health/database")
        self._console.print(table)
        self._say("`make status` shows it, `make logs` its output, `make down` stops it")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


def resume_stopped(folder: StackFolder) -> list[str]:
    """Let programs go on that are stopped, and return their names; a drill that was killed leaves one so."""
    resumed = []
    for name in NAMES:
        process = find_process(pid_file(folder, name), root=folder.root)
        with contextlib.suppress(psutil.NoSuchProcess):
            if process is not None and process.status() == psutil.STATUS_STOPPED:
                process.resume()
                resumed.append(name)
    return resumed


def _is_running(item: ProgramState) -> bool:
    """Say whether the process is there and has shown that it stays.

    A program whose probe answers runs, also in the first seconds in which
    supervisord waits and sees. One that was killed a moment ago does not, also
    before supervisord has noticed.
    """
    if item.pid is None or not is_alive_pid(item.pid):
        return False
    return item.state == "RUNNING" or (item.state == "STARTING" and item.name in PORT_SETTINGS)


def _status_table(health: list[ProgramHealth], recorded: Mapping[str, str]) -> Table:
    table = Table("program", "state", "healthy", "pid", "address", box=None)
    for item in health:
        answer = "yes" if item.is_healthy else "no"
        pid = "" if item.pid is None else str(item.pid)
        table.add_row(item.name, item.state.lower(), answer, pid, address(item.name, recorded))
    return table
