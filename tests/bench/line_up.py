"""The lists of contenders and workloads.

A contender whose packages are not installed is left out.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import NamedTuple

from core import Settings
from tests.bench.contenders.contender import Contender
from tests.bench.mixed import measure_mixed
from tests.bench.stampede import measure_stampede
from tests.bench.workloads import (
    Measure,
    measure_batch_of,
    measure_bulk_ticks,
    measure_cold_leaderboard,
    measure_cold_market,
    measure_cold_portfolio,
    measure_one_portfolio,
    measure_one_profile,
    measure_one_quest,
    measure_one_rank,
    measure_one_score,
    measure_search,
    measure_single_ticks,
    measure_warm_leaderboard,
    measure_warm_market,
    measure_warm_portfolio,
    measure_writers,
)

BASELINE = "raw"
# contender -> its driver; on each workload, the faster one of these two contenders becomes the baseline
BASELINES = MappingProxyType({"raw, psycopg2": "psycopg2", "raw, psycopg 3": "psycopg 3"})
# (module, class) of each contender; a module is imported only when its contender is opened
CONTENDERS = (
    ("raw", "RawPsycopg2"),
    ("raw", "RawPsycopg3"),
    ("fenced", "Fenced"),
    ("naive", "Naive"),
    ("dogpile", "Dogpile"),
    ("ours", "Ours"),
    ("ours", "OursShared"),
)
WORKLOADS: Mapping[str, Measure] = MappingProxyType(
    {
        "leaderboard warm": measure_warm_leaderboard,
        "leaderboard cold": measure_cold_leaderboard,
        "portfolio warm": measure_warm_portfolio,
        "portfolio cold": measure_cold_portfolio,
        "batch update 1,000": measure_batch_of(1_000),
        "batch update 10,000": measure_batch_of(10_000),
        "market warm": measure_warm_market,
        "market cold": measure_cold_market,
        "mixed": measure_mixed,
        "stampede": measure_stampede,
        "ticks one by one": measure_single_ticks,
        "ticks in bulk": measure_bulk_ticks,
        "one score": measure_one_score,
        "eight writers": measure_writers,
        "one rank": measure_one_rank,
        "one portfolio": measure_one_portfolio,
        "one profile": measure_one_profile,
        "one quest": measure_one_quest,
        "search by prefix": measure_search,
    }
)


class Entrant(NamedTuple):
    """An open contender, and the number of its own Valkey database."""

    contender: Contender
    number: int


def open_entrants(settings: Settings, *, skipped: Callable[[str, str], None]) -> list[Entrant]:
    """Open every contender; call `skipped` with the name and reason of each that cannot be opened."""
    entrants = []
    for number, (module, name) in enumerate(CONTENDERS):
        try:
            kind = getattr(import_module(f"tests.bench.contenders.{module}"), name)
        except ModuleNotFoundError as error:
            skipped(module, f"the package {error.name} is not installed")
            continue
        entrants.append(Entrant(kind(settings, number=number), number))
    return entrants
