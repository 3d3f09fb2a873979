"""Processes of the stack found again by the pid files they left behind.

Owns recognising and ending them; never searches by name, so a process of
somebody else is never touched.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

POLL_SECONDS = 0.05
KILL_SECONDS = 10.0
CLOCK_SECONDS = 5.0  # start times are measured from the boot time, which moves when the clock is set


def find_process(pid_file: Path, *, root: Path) -> psutil.Process | None:
    """Return the process that wrote `pid_file`, None when it has ended.

    After a reboot its id can belong to anyone. It is ours if it is older than
    its file and works in the checkout `root`.
    """
    try:
        written = pid_file.stat().st_mtime
        process = psutil.Process(int(pid_file.read_text(encoding="utf-8")))
        is_ours = process.create_time() <= written + CLOCK_SECONDS
        folder = Path(process.cwd())
    except (OSError, ValueError, psutil.Error):
        return None
    return process if is_ours and is_alive(process) and folder.is_relative_to(root.resolve()) else None


def is_alive(process: psutil.Process) -> bool:
    """Say whether it runs; one that has ended and waits for its parent to notice does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_alive_pid(pid: int) -> bool:
    """Say whether the process with this id runs."""
    try:
        return is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def stop_process(process: psutil.Process, *, stop_signal: signal.Signals, seconds: float) -> None:
    """Ask a process to end and kill it when it has not after `seconds`."""
    try:
        process.send_signal(signal.SIGCONT)  # a paused process would never see the request
        process.send_signal(stop_signal)
        if not wait_until(lambda: not is_alive(process), seconds=seconds):
            process.kill()
    except psutil.NoSuchProcess:
        return
    wait_until(lambda: not is_alive(process), seconds=KILL_SECONDS)


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Return True once `condition` holds, False when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
