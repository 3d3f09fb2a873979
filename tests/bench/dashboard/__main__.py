"""`python -m tests.bench.dashboard`: measure the cost of the dashboard and the load that it serves.

Owns the command line and the output. Each figure is printed with its target. The command never fails because
of a figure, because every figure depends on the machine.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from core import Settings
from tests.bench.dashboard.loads import (
    LEADERBOARDS_PAGE,
    Crowd,
    drop_visitors,
    load_with_crowd,
    measure_processor,
)
from tests.bench.dashboard.pages import measure_pages
from tests.bench.dashboard.rows import fill_tables
from tests.bench.dashboard.server import Server, run_server
from tests.bench.servers import run_servers
from tests.end_to_end.browsing import CHROMIUM

# per scale: players, visitors, seconds
SCALES = {"small": (2_000, 10, 15.0), "full": (100_000, 40, 60.0)}
POOL = 10
MEBIBYTE = 1024 * 1024
PARTS = ("crowd", "processor", "vanish", "pages")
CONFIGURATION = Path(__file__).resolve().parents[3] / "dashboard" / ".streamlit"


@click.command()
@click.option("--scale", type=click.Choice(list(SCALES)), default="full", show_default=True)
@click.option("--only", "only", multiple=True, type=click.Choice(PARTS), help="Measure only this.")
def main(scale: str, only: tuple[str, ...]) -> None:
    """Start servers and measure the dashboard."""
    console = Console()
    table = Table("figure", "value", "target", box=None)
    with (
        run_servers() as settings,
        tempfile.TemporaryDirectory(prefix="echo-markets-bench-") as name,
        console.status("filling the tables"),
    ):
        players, visitors, seconds = SCALES[scale]
        fill_tables(settings.database_url.get_secret_value(), players=players)
        folder = Path(name)
        # the smallest page gets the same options as the dashboard, so that only the page differs
        shutil.copytree(CONFIGURATION, folder / ".streamlit")
        environment = describe_settings(settings)
        with run_server(folder, environment) as server:
            parts = only or PARTS
            if {"processor", "pages"} & set(parts):
                with run_server(folder, environment, hello=True) as hello:
                    _add_comparisons(table, server, hello, parts)
            if "vanish" in parts:
                _add(table, "checked out after 50 vanished sessions", str(drop_visitors(server)), "0")
            if "crowd" in parts:
                crowd = load_with_crowd(server, visitors=visitors, seconds=seconds, players=players)
                _add_crowd(table, crowd, visitors)
    console.print(table)
    console.print(f"{players:,} players, a pool of {POOL}, {os.cpu_count()} cores shared with the visitors")


def describe_settings(settings: Settings) -> dict[str, str]:
    """Return the environment variables of a dashboard that uses the servers of `settings`."""
    assert settings.redis_password is not None
    return {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "DATABASE_CONNECTION_LIMIT": str(POOL),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "REDIS_PASSWORD": settings.redis_password.get_secret_value(),
        "LOG_LEVEL": "WARNING",
    }


def _add(table: Table, figure: str, value: str, target: str) -> None:
    table.add_row(figure, value, target)


def _add_comparisons(table: Table, server: Server, hello: Server, parts: Sequence[str]) -> None:
    """Add the CPU and page times of a leaderboard and of the smallest possible page."""
    if "processor" in parts:
        leaderboard = measure_processor(server, page=LEADERBOARDS_PAGE)
        smallest = measure_processor(hello, page="")
        _add(table, "processor time of a leaderboards rerun", f"{leaderboard * 1e3:.1f} ms", "15 ms")
        _add(table, "processor time of a hello world rerun", f"{smallest * 1e3:.1f} ms", "")
    if "pages" in parts and not CHROMIUM.exists():
        _add(table, "warm page", "no browser here", "")
    elif "pages" in parts:
        figures = measure_pages(f"{server.url}/{LEADERBOARDS_PAGE}", hello.url)
        _add(table, "warm leaderboards, drawn", f"{figures['leaderboard']:.2f} s", "")
        _add(table, "warm hello world, drawn", f"{figures['hello']:.2f} s", "")
        _add(table, "ratio of the two", f"{figures['ratio']:.2f}", "1.5")


def _add_crowd(table: Table, crowd: Crowd, visitors: int) -> None:
    times = sorted(run.seconds for run in crowd.runs) or [0.0]
    growth = crowd.memory_after / crowd.memory_before - 1
    _add(
        table,
        "visitors, runs, runs a second",
        f"{visitors}, {len(crowd.runs)}, {len(crowd.runs) / crowd.seconds:.1f}",
        "",
    )
    if crowd.runs:
        # one process can serve the load only if CPU time of a run * runs per second is below 1 s
        spent = f"{crowd.processor / len(crowd.runs) * 1e3:.1f} ms"
        _add(
            table,
            "processor time of a run, of a second",
            f"{spent}, {crowd.processor / crowd.seconds:.0%}",
            "",
        )
    _add(table, "errors", str(len(crowd.errors)), "0")
    for error in sorted(set(crowd.errors))[:3]:
        _add(table, "  such as", error[:100], "")
    _add(table, "pool timeouts", str(crowd.timeouts), "0")
    _add(table, "rerun, median", f"{times[len(times) // 2]:.3f} s", "")
    _add(table, "rerun, p95", f"{times[int(len(times) * 0.95)]:.3f} s", "1 s")
    _add(table, "most connections in use", str(crowd.most_in_use), str(POOL))
    _add(table, "connections in use afterwards", str(crowd.in_use_afterwards), "0")
    sizes = (crowd.memory_before, crowd.memory_with, crowd.memory_after)
    _add(table, "memory before, with, after", ", ".join(f"{size / MEBIBYTE:.0f} MiB" for size in sizes), "")
    _add(table, "memory kept", f"{growth:+.0%}", "+20%")


if __name__ == "__main__":
    main()
