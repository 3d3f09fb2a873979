"""`python -m tests.bench.scrape`: measure a scrape of the metrics of many processes.

Measures the merge of the metric files alone and the response over HTTP: with running writers, and with ended
writers before and after their files are folded. There is no pass or fail.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from subprocess import Popen

import click
import httpx2
import psutil
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from rich.console import Console
from rich.table import Table

from core import Settings
from core.metrics import open_metrics
from core.metrics.fleet import FleetReader
from core.metrics.writer import MetricWriter
from core.stack.ports import find_free_port
from tests.bench.fleet import fill, run_writers
from tests.bench.servers import run_servers

START_SECONDS = 30.0


@click.command()
@click.option(
    "--writers", type=click.IntRange(1), default=20, show_default=True, help="Number of running writers."
)
@click.option(
    "--ended", type=click.IntRange(0), default=400, show_default=True, help="Number of ended writers."
)
@click.option("--rounds", type=click.IntRange(2), default=100, show_default=True)
def main(writers: int, ended: int, rounds: int) -> None:
    """Start servers and writers, and measure scrapes."""
    table = Table("scrape", "median ms", "p95 ms")

    def add(name: str, act: Callable[[], object], count: int = rounds) -> None:
        milliseconds = [time_milliseconds(act) for _ in range(count)]
        worst = quantiles(milliseconds, n=20)[-1] if count > 1 else milliseconds[0]
        table.add_row(name, f"{median(milliseconds):.2f}", f"{worst:.2f}")

    with run_servers() as settings, tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "ended"
        leave_ended_writers(folder, ended)
        reader = FleetReader(MetricWriter(), folder)
        add(f"{ended} ended, prometheus_client's collector", lambda: collect_with_library(folder), 3)
        add(f"{ended} ended, folded now", reader.collect, 1)
        add(f"{ended} ended, folded before", reader.collect)

        folder = Path(root) / "live"
        reader = FleetReader(MetricWriter(), folder)
        with run_writers(folder, writers):
            add(f"{writers} live, prometheus_client's collector", lambda: collect_with_library(folder), 5)
            reader.collect()
            add(f"{writers} live, merged", reader.collect)
            with run_exporter(settings, folder) as (process, url), httpx2.Client() as client:
                client.get(url)
                before = sum(process.cpu_times()[:2])
                add(f"{writers} live, GET /metrics", lambda: client.get(url))
                spent = (sum(process.cpu_times()[:2]) - before) / rounds * 1000
                text = client.get(url).text
    console = Console()
    console.print(table)
    console.print(f"the exporter's own time on the processor: {spent:.1f} ms a scrape")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    console.print(f"{len(lines)} series, {len(text)} bytes")
    for line in lines:
        if line.startswith("echo_scrape_collector_duration_seconds"):
            console.print(line)


def time_milliseconds(act: Callable[[], object]) -> float:
    """Return the milliseconds of one call."""
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1000


def leave_ended_writers(folder: Path, count: int) -> None:
    """Write the metric files of writers that have ended, such as one-shot jobs."""
    for _ in range(count):
        metrics = open_metrics("job", folder)
        fill(metrics)
        metrics.close()


def collect_with_library(folder: Path) -> bytes:
    """Collect the folder with prometheus_client, which reads the files of ended writers every time."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]  # it has no annotations
    return generate_latest(registry)


@contextmanager
def run_exporter(settings: Settings, folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    """Run an exporter that reads `folder`; yield its process and the URL of its metrics."""
    port = find_free_port()
    assert settings.redis_password is not None
    environment = {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "REDIS_PASSWORD": settings.redis_password.get_secret_value(),
        "METRICS_DIR": str(folder),
        "EXPORTER_PORT": str(port),
    }
    with Popen([sys.executable, "-m", "exporter"], env=environment) as exporter:
        try:
            wait_for(f"http://127.0.0.1:{port}/livez")
            yield psutil.Process(exporter.pid), f"http://127.0.0.1:{port}/metrics"
        finally:
            exporter.terminate()


def wait_for(url: str) -> None:
    """Wait until a server answers at `url`; raises `TimeoutError`."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            httpx2.get(url)
        except httpx2.TransportError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"{url} did not answer for {START_SECONDS:.0f} s")


if __name__ == "__main__":
    main()
