"""A dashboard process that also writes the figures of its connection pool to a file.

Owns the measured process and the file. `run_server` starts this module as a program, which serves the
dashboard. With `HELLO_SCRIPT` in the environment, the program serves that script instead, to measure
Streamlit alone.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from core import Settings
from core.settings.texts import LOOPBACK
from core.stack.ports import find_free_port
from tests.dashboard_process import build_environment

REPORT_SECONDS = 0.1
START_SECONDS = 120.0
STOP_SECONDS = 15.0
HELLO = """
import streamlit as st

st.set_page_config(page_title="Hello", layout="wide")
st.title("Hello")
st.write("world")
"""


class Server:
    """A running dashboard process, as its parent process sees it."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], report: Path, log: Path) -> None:
        self.url = url
        self.process = process
        self.log = log
        self._report = report
        self._process = psutil.Process(process.pid)

    def cpu_seconds(self) -> float:
        """Return the CPU seconds that the server has used."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def memory_bytes(self) -> int:
        """Return the resident memory of the server."""
        return int(self._process.memory_info().rss)

    def pool(self) -> dict[str, float]:
        """Return the figures of the server's pool, which are about 0.1 s old."""
        found: dict[str, float] = json.loads(self._report.read_text())
        return found

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait until no connection is checked out; return False after `seconds`."""
        return wait_for(lambda: self.pool()["pool_in_use"] == 0, seconds)


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition is true; return False after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(REPORT_SECONDS)
    return False


@contextmanager
def run_server(folder: Path, settings: dict[str, str], *, hello: bool = False) -> Iterator[Server]:
    """Serve the dashboard, or with `hello` the smallest possible page; yield the server."""
    port = find_free_port()
    report, log = folder / f"pool-{port}.json", folder / f"server-{port}.log"
    extra = {"DASHBOARD_PORT": str(port), "POOL_REPORT": str(report), **settings}
    if hello:
        (folder / "hello.py").write_text(HELLO)
        extra["HELLO_SCRIPT"] = str(folder / "hello.py")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.dashboard.server"],
            cwd=folder,
            env=build_environment(**extra),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Server(f"http://{LOOPBACK}:{port}", process, report, log)
    try:
        if not wait_for(lambda: _answers(server.url) and report.exists(), START_SECONDS):
            raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/livez", timeout=5) as answer:  # a loopback address
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _report_pool(file: Path) -> None:
    """Write the current figures of the pool to a file every 0.1 s."""
    from dashboard import runtime  # noqa: PLC0415  # the parent process must not import Streamlit

    while True:
        try:
            stats = runtime.get_service().pool_stats()
        except RuntimeError:
            stats = None
        if stats is not None:
            figures = {name: getattr(stats, name) for name in stats.__struct_fields__}
            draft = file.with_suffix(".new")
            draft.write_text(json.dumps(figures, default=float))
            draft.rename(file)
        time.sleep(REPORT_SECONDS)


def main() -> None:
    """Serve the dashboard with the settings from the environment."""
    from dashboard.server import application  # noqa: PLC0415  # as in _report_pool

    hello = os.environ.get("HELLO_SCRIPT")
    if hello is not None:
        application.SCRIPT = Path(hello)
    report = Path(os.environ["POOL_REPORT"])
    threading.Thread(target=_report_pool, args=(report,), daemon=True).start()
    application.serve(Settings.load())


if __name__ == "__main__":
    main()
