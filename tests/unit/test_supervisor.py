"""The files of supervisord: order, restarts, signals, and names of folders that look like syntax."""

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
    """A checkout whose name is full of syntax."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root = tmp_path / "a ;#%(b)s'\"c"
    root.mkdir()
    folder = StackFolder(root)
    folder.create()
    return folder


def read_config(folder: StackFolder) -> configparser.RawConfigParser:
    """Read the configuration with supervisord's comment rules."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=True)
    parser.read_string(render_config(folder, PROGRAMS))
    return parser


def test_nothing_starts_by_itself(folder: StackFolder) -> None:
    """`up` starts one program after the other; supervisord only restarts those that ended."""
    program = read_config(folder)["program:exporter"]
    assert (program["autostart"], program["autorestart"]) == ("false", "true")


def test_database_is_stopped_last_and_fast(folder: StackFolder) -> None:
    """The lowest priority is stopped last, and SIGINT does not wait for clients."""
    config = read_config(folder)
    assert int(config["program:postgres"]["priority"]) < int(config["program:exporter"]["priority"])
    assert config["program:postgres"]["stopsignal"] == "INT"
    assert config["program:exporter"]["stopsignal"] == "TERM"


def test_configuration_names_no_folder(folder: StackFolder) -> None:
    """A checkout's name never reaches the configuration, which could not quote it."""
    assert folder.root.name not in render_config(folder, PROGRAMS)


def test_logs_are_rotated(folder: StackFolder) -> None:
    """A stack that runs for weeks does not fill the disk."""
    program = read_config(folder)["program:exporter"]
    assert program["stdout_logfile"] == ".local/log/exporter.log"
    assert (program["stdout_logfile_maxbytes"], program["stdout_logfile_backups"]) == ("10MB", "3")


def test_script_runs_the_command_as_given(folder: StackFolder) -> None:
    """Arguments arrive as they are, and the process id left behind is the program's own."""
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
    """Other users can neither read nor change scripts and configuration."""
    write_files(folder, PROGRAMS)
    files = [folder.supervisor_config, *folder.run.iterdir()]
    assert len(files) == 5
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
