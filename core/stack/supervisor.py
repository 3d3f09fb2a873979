"""supervisord, the process manager that keeps the stack's programs running.

Owns talking to it: start it, ask it what runs, tell it what to start, end it.
Which programs there are, and in which order, is not its business.
"""

import http.client
import signal
import socket
import subprocess
import sys
import xmlrpc.client
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from core.stack.errors import StackError
from core.stack.folder import StackFolder
from core.stack.processes import find_process, stop_process, wait_until

ANSWER_SECONDS = 10.0  # every call is answered at once; longer means that supervisord hangs
END_SECONDS = 120.0  # it stops its programs one after the other and grants each half a minute

STOPPED_STATES = frozenset({"STOPPED", "EXITED", "FATAL"})

_TROUBLE = (OSError, http.client.HTTPException, xmlrpc.client.Error)


class ProgramState(NamedTuple):
    """What supervisord knows of one program; `state` is its own word for it."""

    name: str
    state: str
    pid: int | None


class Supervisor:
    """The supervisord of one checkout."""

    def __init__(self, folder: StackFolder) -> None:
        self._folder = folder

    def is_running(self) -> bool:
        """Say whether it answers."""
        try:
            return bool(self._call("getState")["statename"] == "RUNNING")
        except _TROUBLE:
            return False

    def start(self, environment: Mapping[str, str]) -> None:
        """Start it in the background; its programs inherit `environment`."""
        config = self._folder.supervisor_config.relative_to(self._folder.root)
        result = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)],
            env=environment,
            cwd=self._folder.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,  # Ctrl-C stops the command, not what it has started
            check=False,
        )
        if result.returncode != 0:
            raise StackError(f"supervisord did not start: {result.stderr.strip() or result.stdout.strip()}")
        if not wait_until(self.is_running, seconds=ANSWER_SECONDS):
            raise StackError(f"supervisord does not answer; see {self._folder.log / 'supervisor.log'}")

    def states(self) -> dict[str, ProgramState]:
        """Return the state of every program by its name; empty when supervisord does not answer."""
        try:
            found = self._call("getAllProcessInfo")
        except _TROUBLE:
            return {}
        states = [ProgramState(item["name"], item["statename"], item["pid"] or None) for item in found]
        return {state.name: state for state in states}

    def start_program(self, name: str) -> None:
        """Start one program unless it runs; does not wait until it answers."""
        state = self.states().get(name)
        if state is None or state.state in STOPPED_STATES:
            try:
                self._call("startProcess", name, False)
            except _TROUBLE as error:
                raise StackError(f"supervisord cannot start {name}: {error}; see `make logs`") from error

    def stop_program(self, name: str) -> None:
        """Ask one program to stop and stay stopped; does not wait until it has."""
        try:
            self._call("stopProcess", name, False)
        except _TROUBLE as error:
            raise StackError(f"supervisord cannot stop {name}: {error}; see `make logs`") from error

    def end(self) -> bool:
        """End it and, in reverse order, its programs; say whether there was anything to end."""
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


class _SocketTransport(xmlrpc.client.Transport):
    """XML-RPC through a unix socket, with a time limit that supervisor's own transport lacks."""

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
