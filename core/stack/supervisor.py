"""supervisord, the process manager that keeps the programs running.

Owns supervisord's files and the calls to it: start supervisord, list the states of its programs, start or
stop one program, end supervisord. Does not decide which programs exist and in which order they start.

The configuration file of supervisord cannot quote a `;`, `#` or `%` in a folder's name. Therefore its paths
are relative to the checkout, in which supervisord runs, and the command lines are in shell scripts.
"""

import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import xmlrpc.client
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import StackError
from core.stack.folder import StackFolder
from core.stack.permissions import set_owner, write_private
from core.stack.processes import CHECKOUT_VARIABLE, find_process, stop_process, wait_until
from core.stack.programs import Program
from core.stack.start_order import STOP_SECONDS, STOP_SIGNALS

ANSWER_SECONDS = 10.0  # supervisord answers every call immediately unless it hangs
END_SECONDS = 120.0  # supervisord stops its programs one after the other, each within STOP_SECONDS
START_SECONDS = 2  # a program counts as started after this time; if it ends earlier, the start is retried
START_RETRIES = 10  # each pause is one second longer than the last, so supervisord gives up after a minute
LOG_BYTES = "10MB"
LOG_BACKUPS = 3
STOPPED_STATES = frozenset({"STOPPED", "EXITED", "FATAL"})

_TROUBLE = (OSError, http.client.HTTPException, xmlrpc.client.Error)


class ProgramState(NamedTuple):
    """The state of one program. `state` is one of supervisord's names, such as RUNNING."""

    name: str
    state: str
    pid: int | None


class Supervisor:
    """Controls the supervisord of one checkout."""

    def __init__(self, folder: StackFolder) -> None:
        self._folder = folder

    def is_running(self) -> bool:
        """Return whether supervisord answers."""
        try:
            return bool(self._call("getState")["statename"] == "RUNNING")
        except _TROUBLE:
            return False

    def start(self, environment: Mapping[str, str]) -> None:
        """Start supervisord in the background. Its programs inherit `environment`."""
        config = self._folder.supervisor_config.relative_to(self._folder.root)
        result = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)],
            env={**environment, CHECKOUT_VARIABLE: str(self._folder.root)},
            cwd=self._folder.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,  # Ctrl-C must stop this command, but not supervisord
            check=False,
        )
        if result.returncode != 0:
            raise StackError(f"supervisord did not start: {result.stderr.strip() or result.stdout.strip()}")
        if not wait_until(self.is_running, seconds=ANSWER_SECONDS):
            raise StackError(f"supervisord does not answer; see {self._folder.log / 'supervisor.log'}")

    def states(self) -> dict[str, ProgramState]:
        """Return the state of every program by its name. The dict is empty if supervisord does not answer."""
        try:
            found = self._call("getAllProcessInfo")
        except _TROUBLE:
            return {}
        states = [ProgramState(item["name"], item["statename"], item["pid"] or None) for item in found]
        return {state.name: state for state in states}

    def start_program(self, name: str) -> None:
        """Start one program unless it runs. Does not wait until the program answers."""
        state = self.states().get(name)
        if state is None or state.state in STOPPED_STATES:
            try:
                self._call("startProcess", name, False)
            except _TROUBLE as error:
                raise StackError(f"supervisord cannot start {name}: {error}; see `make logs`") from error

    def stop_program(self, name: str) -> None:
        """Tell supervisord to stop one program and not to restart it. Does not wait until it has stopped."""
        try:
            self._call("stopProcess", name, False)
        except _TROUBLE as error:
            raise StackError(f"supervisord cannot stop {name}: {error}; see `make logs`") from error

    def end(self) -> bool:
        """Stop all programs in reverse order, then supervisord. Return whether supervisord was running."""
        process = find_process(self._folder.supervisor_pid, root=self._folder.root)
        if process is not None:
            stop_process(process, stop_signal=signal.SIGTERM, seconds=END_SECONDS)
        self._folder.supervisor_pid.unlink(missing_ok=True)
        self._folder.socket.unlink(missing_ok=True)
        return process is not None

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = _SocketTransport(self._folder.socket)
        with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)


def write_files(folder: StackFolder, programs: list[Program]) -> None:
    """Write supervisord's configuration, and a script for each of the programs."""
    write_private(folder.supervisor_config, render_config(folder, programs))
    for program in programs:
        script = folder.run / f"{program.name}.sh"
        script.write_text(render_script(program), encoding="utf-8")
        for file in (script, folder.pid_file(program.name)):
            file.touch()
            set_owner(program.user, file, mode=0o600)
    folder.run.chmod(0o711 if any(program.user for program in programs) else 0o700)


def render_script(program: Program) -> str:
    """Return a shell script that writes its process id to the pid file and then executes the program.

    `exec` keeps the process id. So `down` finds the program even if supervisord has ended.
    """
    variables = {**program.environment, **program.added}
    assigned = [f"{name}={value}" for name, value in variables.items()]
    prefix = ["env", *(["-i"] if program.environment else []), *assigned] if assigned else []
    command = [*prefix, *program.command]
    return f'#!/bin/sh\necho "$$" > .local/run/{program.name}.pid\nexec {shlex.join(command)}\n'


def render_config(folder: StackFolder, programs: list[Program]) -> str:
    """Return supervisord's configuration. `autostart` is off, because the stack starts programs in order."""
    socket = folder.socket if folder.socket.parent != folder.path else f".local/{folder.socket.name}"
    lines = [
        "[unix_http_server]",
        f"file={socket}",
        "chmod=0600",
        "[supervisord]",
        "pidfile=.local/supervisord.pid",
        "logfile=.local/log/supervisor.log",
        f"logfile_maxbytes={LOG_BYTES}",
        f"logfile_backups={LOG_BACKUPS}",
        # without this line, supervisord warns at every start as root
        *(["user=root"] if os.geteuid() == 0 else []),
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
    ]
    # supervisord stops the program with the largest `priority` first
    for priority, program in enumerate(programs):
        lines += _render_program(program, priority)
    return "\n".join([*lines, ""])


def _render_program(program: Program, priority: int) -> list[str]:
    return [
        f"[program:{program.name}]",
        f"command=/bin/sh .local/run/{program.name}.sh",
        *([f"user={program.user.name}"] if program.user else []),
        f"priority={priority}",
        "autostart=false",
        "autorestart=true",
        f"startsecs={START_SECONDS}",
        f"startretries={START_RETRIES}",
        f"stopsignal={STOP_SIGNALS[program.name].name.removeprefix('SIG')}",
        f"stopwaitsecs={STOP_SECONDS}",
        "redirect_stderr=true",
        f"stdout_logfile=.local/log/{program.name}.log",
        f"stdout_logfile_maxbytes={LOG_BYTES}",
        f"stdout_logfile_backups={LOG_BACKUPS}",
    ]


class _SocketTransport(xmlrpc.client.Transport):
    """XML-RPC over a unix socket, with a timeout. The transport of supervisor's own client has no timeout."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:  # noqa: ARG002 - the path is the address
        return _SocketConnection(self._path)


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
