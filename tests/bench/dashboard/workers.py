"""`python -m tests.bench.dashboard.workers`: compare one dashboard process with several processes.

One process and several processes take turns on the same servers, with the same visitors. The visitors run in
this process on the same CPUs, so the CPU time of this process is also shown.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click
import psutil
from rich.console import Console
from rich.table import Table

from tests.bench.dashboard.__main__ import POOL, describe_settings
from tests.bench.dashboard.loads import Load
from tests.bench.dashboard.rows import fill_tables
from tests.bench.servers import run_servers
from tests.dashboard_process import Dashboard, run_dashboard

READY_SECONDS = 120.0
SETTLE_SECONDS = 3.0
"""Pause after the last worker is ready, because this worker still warms its caches."""

WARMING_RUNS = 40


class Turn(NamedTuple):
    """The result of one load; times in seconds, CPU use as a number of CPUs."""

    workers: int
    visitors: int
    runs_per_second: float
    times: list[float]
    errors: list[str]
    dashboard: float
    visiting: float
    machine: float


@click.command()
@click.option("--workers", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--visitors", multiple=True, type=int, default=(40, 80), show_default=True)
@click.option("--seconds", type=float, default=20.0, show_default=True)
@click.option("--turns", type=int, default=2, show_default=True)
@click.option("--players", type=int, default=100_000, show_default=True)
def main(
    workers: tuple[int, ...], visitors: tuple[int, ...], seconds: float, turns: int, players: int
) -> None:
    """Start servers and measure each number of workers with each number of visitors."""
    console = Console(width=120)
    table = Table("processes", "visitors", "runs a second", "median", "p95", "errors", box=None)
    for name in ("dashboard", "visitors", "all"):
        table.add_column(f"processors: {name}")
    with run_servers() as settings, tempfile.TemporaryDirectory(prefix="echo-markets-bench-") as name:
        fill_tables(settings.database_url.get_secret_value(), players=players)
        environment = describe_settings(settings) | {"LOG_LEVEL": "INFO"}
        for _ in range(turns):
            for count in workers:
                with _run_workers(Path(name), environment, count) as dashboard:
                    for crowd in visitors:
                        turn = _measure(
                            dashboard, workers=count, visitors=crowd, seconds=seconds, players=players
                        )
                        table.add_row(*_describe_turn(turn))
                        console.print(" ".join(_describe_turn(turn)))
    console.print(table)
    load = os.getloadavg()[0]
    console.print(
        f"{players:,} players, pools of {POOL}, {os.cpu_count()} processors, load average {load:.1f}"
    )


@contextmanager
def _run_workers(folder: Path, environment: dict[str, str], workers: int) -> Iterator[Dashboard]:
    with run_dashboard(folder, port=None, DASHBOARD_WORKERS=str(workers), **environment) as dashboard:
        deadline = time.monotonic() + READY_SECONDS
        while workers > 1 and dashboard.log.read_text().count(" is ready") < workers:
            if time.monotonic() > deadline:
                raise RuntimeError(dashboard.log.read_text()[-2000:])
            time.sleep(0.1)
        time.sleep(SETTLE_SECONDS)
        yield dashboard


def _measure(dashboard: Dashboard, *, workers: int, visitors: int, seconds: float, players: int) -> Turn:
    load = Load(dashboard.url, players=players, seed=1)
    asyncio.run(load.run_some(WARMING_RUNS))
    load.runs.clear()
    started, before, machine = time.monotonic(), _read_cpu(dashboard), _read_machine_cpu()
    own_before = time.process_time()
    asyncio.run(_visit(load, visitors=visitors, until=started + seconds))
    taken = time.monotonic() - started
    return Turn(
        workers=workers,
        visitors=visitors,
        runs_per_second=len(load.runs) / taken,
        times=sorted(run.seconds for run in load.runs) or [0.0],
        errors=load.errors,
        dashboard=(_read_cpu(dashboard) - before) / taken,
        visiting=(time.process_time() - own_before) / taken,
        machine=(_read_machine_cpu() - machine) / taken,
    )


async def _visit(load: Load, *, visitors: int, until: float) -> None:
    await asyncio.gather(*(load.visit(until=until, delay=number / visitors) for number in range(visitors)))


def _read_cpu(dashboard: Dashboard) -> float:
    parent = psutil.Process(dashboard.process.pid)
    times = [process.cpu_times() for process in (parent, *parent.children())]
    return sum(each.user + each.system for each in times)


def _read_machine_cpu() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice + times.irq + times.softirq)


def _describe_turn(turn: Turn) -> tuple[str, ...]:
    return (
        str(turn.workers),
        str(turn.visitors),
        f"{turn.runs_per_second:.1f}",
        f"{turn.times[len(turn.times) // 2]:.2f} s",
        f"{turn.times[int(len(turn.times) * 0.95)]:.2f} s",
        str(len(turn.errors)),
        f"{turn.dashboard:.2f}",
        f"{turn.visiting:.2f}",
        f"{turn.machine:.2f}",
    )


if __name__ == "__main__":
    main()
