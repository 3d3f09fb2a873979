"""supervisord's configuration: order, restarts, signals, and folder names with special characters."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

from core.stack.folder import StackFolder
from core.stack.programs import Program
from core.stack.supervisor import render_config, render_script, write_files

PROGRAMS = [
    Program("postgres", ["/opt/pg/bin/postgres", "-D", "/data; #%(x)s"], environment={"TZ": "UTC"}),
    Program("exporter", ["python", "-m", "exporter"]),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackFolder:
    """Return a stack folder in a checkout whose name has special characters of supervisord and sh."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root = tmp_path / "a ;#%(b)s'\"c"
    root.mkdir()
    folder = StackFolder(root)
    folder.create()
    return folder


def read_config(folder: StackFolder) -> configparser.RawConfigParser:
    """Parse the configuration with supervisord's comment characters."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=True)
    parser.read_string(render_config(folder, PROGRAMS))
    return parser


def test_no_program_starts_automatically(folder: StackFolder) -> None:
    """The configuration makes supervisord restart ended programs, but leaves the first start to `up`."""
    program = read_config(folder)["program:exporter"]
    assert (program["autostart"], program["autorestart"]) == ("false", "true")


def test_database_is_stopped_last_and_fast(folder: StackFolder) -> None:
    """PostgreSQL stops last, and by SIGINT, which does not wait for clients to disconnect."""
    config = read_config(folder)
    assert int(config["program:postgres"]["priority"]) < int(config["program:exporter"]["priority"])
    assert config["program:postgres"]["stopsignal"] == "INT"
    assert config["program:exporter"]["stopsignal"] == "TERM"


def test_configuration_has_no_checkout_path(folder: StackFolder) -> None:
    """The configuration does not contain the checkout's name, whose special characters it cannot quote."""
    assert folder.root.name not in render_config(folder, PROGRAMS)


def test_logs_are_rotated(folder: StackFolder) -> None:
    """Logs are rotated at 10 MB with three backups, so that they cannot fill the disk."""
    program = read_config(folder)["program:exporter"]
    assert program["stdout_logfile"] == ".local/log/exporter.log"
    assert (program["stdout_logfile_maxbytes"], program["stdout_logfile_backups"]) == ("10MB", "3")


def test_script_runs_the_command_as_given(folder: StackFolder) -> None:
    """The script passes the arguments unchanged, and the pid file has the program's own process id."""
    code = "import os, sys; print(os.getpid(), sys.argv[1:], sorted(os.environ))"
    environment = {"TZ": "UTC", "LC_ALL": "C"}
    program = Program("postgres", [sys.executable, "-c", code, "a b", "'\"$HOME;#%"], environment=environment)
    output = subprocess.run(
        ["/bin/sh", "-c", render_script(program)], cwd=folder.root, capture_output=True, text=True, check=True
    ).stdout
    pid = folder.pid_file("postgres").read_text(encoding="utf-8").strip()
    assert output.startswith(f"{pid} {['a b', chr(39) + chr(34) + '$HOME;#%']}")
    assert "HOME" not in output.replace("$HOME", "")


def test_files_are_private(folder: StackFolder) -> None:
    """The scripts and the configuration have mode 0600."""
    write_files(folder, PROGRAMS)
    files = [folder.supervisor_config, *folder.run.iterdir()]
    assert len(files) == 5
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
