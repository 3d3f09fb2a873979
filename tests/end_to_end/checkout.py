"""A copy of this checkout in a temporary folder, with its own ports and `.local` folder.

Copies the files, calls `make` in the copy, and finds processes and ports that are still in use after a stop.
The copy uses the virtual environment that runs the tests, so nothing is installed again.
"""

import http.client
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg2
import pytest

from core import Settings
from core.settings import RoleSettings
from core.settings.texts import LOOPBACK
from core.stack.folder import StackFolder
from core.stack.ports import find_free_port, is_port_free
from core.stack.processes import is_alive
from core.stack.programs import find_superuser_url
from core.stack.settings import StackSettings

ROOT = Path(__file__).resolve().parents[2]
PORT_NAMES = ("POSTGRES_PORT", "REPLICA_PORT", "VALKEY_PORT", "EXPORTER_PORT", "DASHBOARD_PORT")
PLAYERS, SESSIONS = 12, 5
MAKE_SECONDS = 240


class Checkout:
    """One copy of the checkout and the stack that runs from it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.make_seconds: float = MAKE_SECONDS
        self.ports = {name: find_free_port() for name in PORT_NAMES}
        fields = (*Settings.model_fields, *StackSettings.model_fields, *RoleSettings.model_fields)
        names = {f"{name.upper()}{suffix}" for name in fields for suffix in ("", "_FILE")}
        inherited = {name: value for name, value in os.environ.items() if name not in names}
        # variables that `make test` sets must not reach `make` in the copy
        for name in (
            "MAKEFLAGS",
            "MAKELEVEL",
            "MFLAGS",
            "VENV",
            "PYTHONPATH",
            "PIP_PROGRESS",
            "ARGS",
            "WORKERS",
        ):
            inherited.pop(name, None)
        self.environment = {
            **inherited,
            **{name: str(port) for name, port in self.ports.items()},
            "MODE": "local",
            "VENV": sys.prefix,
            "SEED_PLAYERS": str(PLAYERS),
            "SEED_SESSIONS": str(SESSIONS),
        }

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a `make` target to its end; the result's `stdout` also has the errors."""
        return self._run("make", "--no-print-directory", *arguments, **environment)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run an `echo-markets` command in the copy; the result's `stdout` also has the errors."""
        return self.python("-m", "core.cli", *arguments, **environment)

    def python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python in the copy; the result's `stdout` also has the errors."""
        return self._run(sys.executable, *arguments, **environment)

    def _run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.root,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=self.make_seconds,
            check=False,
        )

    def up(self, **environment: str) -> str:
        """Run `make up`, assert that it succeeded, and return its output."""
        result = self.make("up", **environment)
        assert result.returncode == 0, result.stdout
        return result.stdout

    def get(self, name: str, path: str) -> tuple[int, str]:
        """Return the status and body of a GET request to a program, such as `exporter` or `dashboard`."""
        connection = http.client.HTTPConnection(LOOPBACK, self.ports[f"{name.upper()}_PORT"], timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def pid(self, name: str) -> int:
        """Return the process id of a program of the running stack, such as `postgres` or `supervisor`."""
        folder = self.root / ".local"
        file = folder / "supervisord.pid" if name == "supervisor" else folder / "run" / f"{name}.pid"
        return int(file.read_text(encoding="utf-8"))

    def count(self, table: str) -> int:
        """Return the number of rows of a table in the running stack's database."""
        number = self.select(f"SELECT count(*) FROM {table}")
        assert isinstance(number, int)
        return number

    def select(self, statement: str) -> object:
        """Return the one value that a statement selects from the running stack's database."""
        connection = psycopg2.connect(self.superuser_url())
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                (value,) = cursor.fetchone() or (None,)
                return value
        finally:
            connection.close()

    def superuser_url(self) -> str:
        """Return the URL of the running stack's database as superuser."""
        return find_superuser_url(StackFolder(self.root).recorded())

    def health(self) -> dict[str, object]:
        """Return the exporter's health document."""
        document: dict[str, object] = json.loads(self.get("exporter", "/api/health/database")[1])
        return document

    def left_processes(self) -> list[str]:
        """Return the names of the processes whose working directory is in this copy."""
        return [process.info["name"] for process in psutil.process_iter(["name"]) if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return is_alive(process) and Path(process.cwd()).is_relative_to(self.root.resolve())
        except (psutil.Error, OSError):
            return False


def copy_checkout(target: Path) -> Checkout:
    """Copy the files that git tracks or would add, and return the copy."""
    if shutil.which("git") is None or shutil.which("make") is None:
        pytest.skip("git and make are needed to copy the checkout and to start its stack")
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip(f"this is not a git checkout: {listed.stderr.strip()}")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return Checkout(target)


def assert_nothing_left(checkout: Checkout) -> None:
    """Assert that no process of the stack runs and that all its ports are free."""
    assert checkout.left_processes() == []
    assert [name for name, port in checkout.ports.items() if not is_port_free(port)] == []
