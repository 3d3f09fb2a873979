"""Tests do not depend on inherited signals, terminal, locale, time zone, home folder or umask."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from core.cli import main

# Unusual values of the variables that a test run inherits.
UNUSUAL_ENVIRONMENT = {
    "HOME": "/nonexistent",
    "LC_ALL": "C",
    "TZ": "Pacific/Kiritimati",
    "FORCE_COLOR": "1",
    "COLUMNS": "20",
    "LOG_LEVEL": "DEBUG",
    "DATABASE_URL": "postgresql://db.example/production",
}
IGNORED = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


def test_children_can_be_interrupted() -> None:
    """A process that a test starts ends on SIGINT, SIGQUIT and SIGHUP."""
    for number in IGNORED:
        with subprocess.Popen(
            [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], stdout=-1
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            child.send_signal(number)
            assert child.wait(10) != 0


def test_output_is_plain() -> None:
    """The output of commands has no colours and does not depend on the width of the terminal."""
    console = Console(width=100)
    with console.capture() as capture:
        console.print("[bold]plain[/bold] " + "x" * 60)
    assert capture.get() == f"plain {'x' * 60}\n"
    assert "DATABASE_URL is not set" in CliRunner().invoke(main, ["migrate"]).stderr


@pytest.mark.slow
def test_an_unusual_environment_changes_no_result(repository: Path) -> None:
    """The two tests above pass with ignored signals, another umask and unusual environment variables."""

    def inherit() -> None:
        os.umask(0o077)
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)

    names = [test_children_can_be_interrupted.__name__, test_output_is_plain.__name__]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", " or ".join(names)],
        cwd=repository,
        env={**os.environ, **UNUSUAL_ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=inherit,  # safe: no other thread forks at the same time
    )
    assert (ended.returncode, "2 passed" in ended.stdout) == (0, True), ended.stdout
