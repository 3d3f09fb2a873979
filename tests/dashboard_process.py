"""Runs `python -m dashboard` on a free port for the length of a `with` block.

Starts the process, waits until it answers, and stops it. The process gets only the settings that the caller
passes, none from the developer's environment or `.env` files.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from core import Settings
from core.settings.texts import LOOPBACK
from core.stack.ports import find_free_port

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0
STOP_SECONDS = 10.0


class Dashboard(NamedTuple):
    """The base URL, process and log file of a running dashboard."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def fetch(self, path: str) -> tuple[int, str]:
        """Return the status and body of a GET request to the dashboard."""
        try:
            with urlopen(self.url + path, timeout=5) as response:  # loopback only
                return response.status, response.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()


def build_environment(**settings: str) -> dict[str, str]:
    """Return this process's environment variables, with `settings` in place of the service's settings."""
    names = {name.upper() for name in Settings.model_fields}
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    return {**inherited, "PYTHONPATH": str(ROOT), **settings}


@contextmanager
def run_dashboard(folder: Path, *, port: int | None = None, **settings: str) -> Iterator[Dashboard]:
    """Run the dashboard with these settings as environment variables; it works and logs in `folder`."""
    port = port or find_free_port()
    environment = build_environment(DASHBOARD_PORT=str(port), **settings)
    log = folder / f"dashboard-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dashboard"],
            # not in the checkout, whose `.env` file would be read
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    dashboard = Dashboard(f"http://{LOOPBACK}:{port}", process, log)
    try:
        _wait_until_alive(dashboard)
        yield dashboard
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_alive(dashboard: Dashboard) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and dashboard.process.poll() is None:
        try:
            if dashboard.fetch("/livez")[0] == 200:
                return
        except (URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"the dashboard did not start:\n{dashboard.log.read_text()[-2000:]}")
