"""Processes of the stack are found by their pid files; processes of other programs are never found."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from core.stack.processes import find_process, is_alive, stop_process, wait_until

STUBBORN = (
    "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); sys.stdin.read()"
)


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that runs in the checkout and has a pid file."""
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as process:
        (tmp_path / "pid").write_text(f"{process.pid}\n", encoding="utf-8")
        yield process
        process.kill()


def test_finds_the_process_that_wrote_the_file(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """The process whose id is in the pid file is found."""
    process = find_process(tmp_path / "pid", root=tmp_path)
    assert process is not None
    assert process.pid == sleeper.pid


def test_process_in_another_folder_is_not_found(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """A process in another folder is not found: after a reboot, another program can have the same id."""
    (tmp_path / "other").mkdir()
    assert find_process(tmp_path / "pid", root=tmp_path / "other") is None


def test_process_younger_than_its_pid_file_is_not_found(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    """A process that started after the pid file was written is not found: it did not write the file."""
    os.utime(tmp_path / "pid", (1, 1))
    assert find_process(tmp_path / "pid", root=tmp_path) is None


@pytest.mark.parametrize("text", ["", "no number", "4194305", "-1"])
def test_invalid_pid_file_finds_nothing(tmp_path: Path, text: str) -> None:
    """An empty or damaged pid file, or the id of an ended process, finds no process."""
    (tmp_path / "pid").write_text(text, encoding="utf-8")
    assert find_process(tmp_path / "pid", root=tmp_path) is None


def test_missing_pid_file_finds_nothing(tmp_path: Path) -> None:
    """A missing pid file finds no process and raises no error."""
    assert find_process(tmp_path / "pid", root=tmp_path) is None


def test_dead_process_is_not_alive(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """A zombie process counts as ended."""
    process = psutil.Process(sleeper.pid)
    sleeper.kill()
    assert wait_until(lambda: not is_alive(process), seconds=5)
    assert find_process(tmp_path / "pid", root=tmp_path) is None


def test_paused_process_is_stopped(sleeper: subprocess.Popen[bytes]) -> None:
    """A paused process is resumed, so that it can handle the stop signal."""
    sleeper.send_signal(signal.SIGSTOP)
    stop_process(psutil.Process(sleeper.pid), stop_signal=signal.SIGTERM, seconds=5)
    assert sleeper.wait(5) == -signal.SIGTERM


def test_process_that_ignores_the_signal_is_killed() -> None:
    """A process that ignores the stop signal is killed after the timeout."""
    command = [sys.executable, "-c", STUBBORN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # wait until the process ignores SIGTERM
        stop_process(psutil.Process(process.pid), stop_signal=signal.SIGTERM, seconds=0.1)
        assert process.wait(5) == -signal.SIGKILL


def test_wait_until_has_a_timeout() -> None:
    """`wait_until` returns False when the condition does not hold within the timeout."""
    assert not wait_until(lambda: False, seconds=0.01)
