"""Finds the processes of the stack, ends them, and waits for them.

Processes are found by their pid files and never by name, so an unrelated process is never ended. Without a
pid file, a process belongs to the stack if its environment contains CHECKOUT_VARIABLE. Servers overwrite
their environment, so they are identified by the path of their program and their working folder.
"""

import os
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path

import psutil

# the environment variable of all supervised programs that has the path of the checkout
CHECKOUT_VARIABLE = "ECHO_MARKETS_CHECKOUT"
POLL_SECONDS = 0.05
KILL_SECONDS = 10.0
# tolerance of start times: psutil computes them from the boot time, which shifts when the clock is set
CLOCK_SECONDS = 5.0
LAST_LINES = 5
LAST_BYTES = 10_000


def find_process(pid_file: Path, *, root: Path) -> psutil.Process | None:
    """Return the process that wrote `pid_file`, or None if it has ended.

    After a reboot, another program can have the same process id. Therefore the process must be older than
    the file, and its working folder must be in the checkout `root`.
    """
    try:
        written = pid_file.stat().st_mtime
        process = psutil.Process(int(pid_file.read_text(encoding="utf-8")))
        is_older = process.create_time() <= written + CLOCK_SECONDS
        folder = Path(process.cwd())
    except (OSError, ValueError, psutil.Error):
        return None
    return process if is_older and is_alive(process) and folder.is_relative_to(root.resolve()) else None


def find_strays(root: Path, *, servers: Path, programs: Collection[Path]) -> list[psutil.Process]:
    """Return the processes of a checkout's stack, found without pid files.

    A process is left out if its parent belongs to the stack too. `programs` are the paths of the server
    programs; their working folders are in the folder `servers`.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            is_server = Path(process.exe()) in programs and Path(process.cwd()).is_relative_to(servers)
            if is_server or process.environ().get(CHECKOUT_VARIABLE) == str(root):
                found[process.pid] = process
        except (psutil.Error, OSError):
            continue  # the process has ended, or belongs to another user
    return [
        process
        for process in found.values()
        if process.pid != os.getpid() and _find_parent(process) not in found and is_alive(process)
    ]


def _find_parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return None


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs. A zombie counts as ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop_process(process: psutil.Process, *, stop_signal: signal.Signals, seconds: float) -> None:
    """Send `stop_signal` to a process. Kill the process if it still runs after `seconds`."""
    try:
        process.send_signal(signal.SIGCONT)  # a paused process cannot handle `stop_signal`
        process.send_signal(stop_signal)
        if not wait_until(lambda: not is_alive(process), seconds=seconds):
            process.kill()
    except psutil.NoSuchProcess:
        return
    wait_until(lambda: not is_alive(process), seconds=KILL_SECONDS)


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Wait until `condition` returns True. Return False if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def read_last_lines(log: Path) -> str:
    """Return the last lines of a log file, joined into one line for an error message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LAST_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return "no output"
    return " | ".join(text.strip().splitlines()[-LAST_LINES:]) or "no output"
