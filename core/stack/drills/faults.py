"""The faults of the drills, each undone at the end of its `with` block, whatever happens.

Owns how a part of the stack is broken and mended: through the process ids in the stack's folder
and through its supervisor. Never touches a process that is not the stack's.
"""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import NamedTuple

import psutil

from core.stack.errors import StackError
from core.stack.folder import StackFolder
from core.stack.processes import find_process, wait_until
from core.stack.programs import CLI, answers, pid_file
from core.stack.supervisor import STOPPED_STATES, Supervisor

STOP_SECONDS = 30.0
START_SECONDS = 60.0
# Few and briefly: a pool of its own is used up, and nobody else's.
OCCUPIED = MappingProxyType({"DATABASE_CONNECTION_LIMIT": "2", "DATABASE_POOL_TIMEOUT": "1000"})


class Place(NamedTuple):
    """The running stack: its folder and the environment of its programs."""

    folder: StackFolder
    environment: Mapping[str, str]


Fault = Callable[[Place], AbstractContextManager[None]]


@contextmanager
def hang_valkey(place: Place) -> Iterator[None]:
    """Stop Valkey without ending it: it accepts connections and answers nothing."""
    process = find_process(pid_file(place.folder, "valkey"), root=place.folder.root)
    if process is None:
        raise StackError("valkey does not run; `make up` starts it")
    try:
        process.send_signal(signal.SIGSTOP)
        yield
    finally:
        with _uninterrupted():
            _resume(process)


def _resume(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGCONT)
    except psutil.NoSuchProcess:
        return  # somebody has ended it; the supervisor starts another


@contextmanager
def stop_postgres(place: Place) -> Iterator[None]:
    """Shut PostgreSQL down: connections are cut, new ones refused."""
    supervisor = Supervisor(place.folder)
    try:
        supervisor.stop_program("postgres")
        if not wait_until(lambda: _is_stopped(supervisor), seconds=STOP_SECONDS):
            raise StackError(f"postgres does not stop within {STOP_SECONDS:.0f} s; see `make logs`")
        yield
    finally:
        with _uninterrupted():
            wait_until(lambda: _is_stopped(supervisor), seconds=STOP_SECONDS)
            supervisor.start_program("postgres")
            wait_until(lambda: answers("postgres", place.environment), seconds=START_SECONDS)


def _is_stopped(supervisor: Supervisor) -> bool:
    found = supervisor.states().get("postgres")
    return found is not None and found.state in STOPPED_STATES


@contextmanager
def occupy_pool(place: Place) -> Iterator[None]:
    """Let a process of the drill hold every connection of its pool, while more of its threads want one."""
    command = [sys.executable, *CLI, "occupy-pool"]
    environment = {**place.environment, **OCCUPIED}
    process = subprocess.Popen(command, env=environment, cwd=place.folder.root)
    try:
        yield
    finally:
        with _uninterrupted():
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let a second Ctrl-C not keep a fault from being undone."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
