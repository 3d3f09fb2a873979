"""The tests depend on nothing of how they are started: signals, terminal, locale, time zone, home, umask."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from core.cli import main

# As in a background job of a script, on a machine that is set up differently from the usual one.
ODD_ENVIRONMENT = {
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
    """A process that a test starts ends on SIGINT and SIGHUP."""
    for number in IGNORED:
        with subprocess.Popen(
            [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], stdout=-1
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            child.send_signal(number)
            assert child.wait(10) != 0


def test_output_is_plain() -> None:
    """Neither colours nor the width of a terminal get into what commands print."""
    console = Console(width=100)
    with console.capture() as capture:
        console.print("[bold]plain[/bold] " + "x" * 60)
    assert capture.get() == f"plain {'x' * 60}\n"
    assert "DATABASE_URL is not set" in CliRunner().invoke(main, ["migrate"]).stderr


@pytest.mark.slow
def test_a_background_run_on_an_odd_machine_is_the_same(repository: Path) -> None:
    """The tests above pass where every inherited setting is another one."""

    def inherit() -> None:
        os.umask(0o077)
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)

    names = [test_children_can_be_interrupted.__name__, test_output_is_plain.__name__]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", " or ".join(names)],
        cwd=repository,
        env={**os.environ, **ODD_ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=inherit,  # no thread of this process forks at the same time
    )
    assert (ended.returncode, "2 passed" in ended.stdout) == (0, True), ended.stdout
