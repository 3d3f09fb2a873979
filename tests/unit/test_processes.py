"""Processes found again by their pid files, and never those of somebody else."""

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
    """A process that works in the checkout and has left its pid file."""
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as process:
        (tmp_path / "pid").write_text(f"{process.pid}\n", encoding="utf-8")
        yield process
        process.kill()


def test_finds_the_process_that_wrote_the_file(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """The process is found by the id that it wrote."""
    process = find_process(tmp_path / "pid", root=tmp_path)
    assert process is not None
    assert process.pid == sleeper.pid


def test_process_elsewhere_is_not_ours(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """After a reboot the id can belong to a program that works in another folder."""
    (tmp_path / "other").mkdir()
    assert find_process(tmp_path / "pid", root=tmp_path / "other") is None


def test_younger_process_is_not_ours(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """A process that started after the file was written cannot have written it."""
    os.utime(tmp_path / "pid", (1, 1))
    assert find_process(tmp_path / "pid", root=tmp_path) is None


@pytest.mark.parametrize("text", ["", "no number", "4194305", "-1"])
def test_useless_file_finds_nothing(tmp_path: Path, text: str) -> None:
    """An empty, damaged or stale file counts as none."""
    (tmp_path / "pid").write_text(text, encoding="utf-8")
    assert find_process(tmp_path / "pid", root=tmp_path) is None


def test_missing_file_finds_nothing(tmp_path: Path) -> None:
    """A program that never started has left no file."""
    assert find_process(tmp_path / "pid", root=tmp_path) is None


def test_dead_process_is_not_alive(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """A zombie counts as ended."""
    process = psutil.Process(sleeper.pid)
    sleeper.kill()
    assert wait_until(lambda: not is_alive(process), seconds=5)
    assert find_process(tmp_path / "pid", root=tmp_path) is None


def test_paused_process_is_stopped(sleeper: subprocess.Popen[bytes]) -> None:
    """A paused process is resumed, or it would never handle the request."""
    sleeper.send_signal(signal.SIGSTOP)
    stop_process(psutil.Process(sleeper.pid), stop_signal=signal.SIGTERM, seconds=5)
    assert sleeper.wait(5) == -signal.SIGTERM


def test_stubborn_process_is_killed() -> None:
    """A process that ignores the request is killed after the given time."""
    command = [sys.executable, "-c", STUBBORN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the signal is ignored from here on
        stop_process(psutil.Process(process.pid), stop_signal=signal.SIGTERM, seconds=0.1)
        assert process.wait(5) == -signal.SIGKILL


def test_waiting_ends() -> None:
    """A condition that never holds ends in False."""
    assert not wait_until(lambda: False, seconds=0.01)
