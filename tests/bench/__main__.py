"""`python -m tests.bench`: compare the service with other implementations of the same calls.

Owns the command line and the output. Servers, rows, contenders and workloads have their own modules.
"""

import os
import platform
import time
from pathlib import Path

import click
from rich.console import Console

from core import Settings
from tests.bench.data import SCALES, Choices, Scale, fill_tables
from tests.bench.figures import Summary, choose_baseline, summarise, to_document
from tests.bench.line_up import BASELINE, BASELINES, WORKLOADS, Entrant, open_entrants
from tests.bench.report import make_table
from tests.bench.rounds import check_results, run_rounds
from tests.bench.servers import run_servers

# width of a table that is written to a file, in characters
WIDTH = 150


@click.command()
@click.option("--scale", type=click.Choice(list(SCALES)), default="full", show_default=True)
@click.option("--rounds", type=click.IntRange(1), help="Number of rounds; the default depends on the scale.")
@click.option("--only", "only", multiple=True, type=click.Choice(list(WORKLOADS)), help="Only this workload.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the figures.")
@click.option("--seed", default=1, show_default=True, help="Seed of the random calls.")
def main(scale: str, rounds: int | None, only: tuple[str, ...], json_file: Path | None, seed: int) -> None:
    """Start servers, measure every contender and print the times; no time makes the command fail."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    started = time.monotonic()
    sizes = SCALES[scale]
    count = rounds or sizes.rounds
    with run_servers() as settings:
        summaries = _measure(
            settings, sizes, console, workloads=only or tuple(WORKLOADS), rounds=count, seed=seed
        )
    console.print(make_table(summaries, baseline=BASELINE))
    console.print(
        f"ratios to {BASELINE}, medians of {count} rounds; {time.monotonic() - started:.0f} s in all"
    )
    if json_file is not None:
        machine = {"cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()}
        about = {"scale": scale, "sizes": sizes._asdict(), "rounds": count, "machine": machine}
        json_file.write_bytes(to_document(summaries, **about))


def _measure(
    settings: Settings,
    scale: Scale,
    console: Console,
    *,
    workloads: tuple[str, ...],
    rounds: int,
    seed: int,
) -> list[Summary]:
    with console.status("filling the tables") as status:
        fill_tables(settings.database_url.get_secret_value(), scale)
        choices = Choices(scale, seed)
        entrants = open_entrants(settings, skipped=lambda name, why: console.print(f"without {name}: {why}"))
        try:
            status.update("comparing results")
            check_results(settings, entrants, choices)
            turns = run_rounds(
                settings,
                entrants,
                choices,
                workloads=workloads,
                rounds=rounds,
                on_turn=lambda *turn: status.update("{}: {}, round {}".format(*turn)),
            )
            kept, fastest = choose_baseline(list(turns), baseline=BASELINE, candidates=list(BASELINES))
            drivers = {workload: BASELINES[name] for workload, name in fastest.items()}
            return summarise(kept, baseline=BASELINE, made_with=drivers)
        finally:
            _close(entrants)


def _close(entrants: list[Entrant]) -> None:
    for entrant in entrants:
        entrant.contender.close()


if __name__ == "__main__":
    main()
