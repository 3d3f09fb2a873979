"""`make bench` runs every workload."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

WORKLOADS = (
    "leaderboard warm",
    "leaderboard cold",
    "portfolio warm",
    "portfolio cold",
    "batch update 1,000",
    "market warm",
    "market cold",
    "mixed",
    "mixed, stale reads per 100,000",
    "stampede",
    "ticks one by one",
    "ticks in bulk",
    "one score",
    "eight writers",
    "one rank",
    "one portfolio",
    "one profile",
    "one quest",
    "search by prefix",
)


def test_bench_compares_with_the_bare_drivers(repository: Path) -> None:
    """The benchmark prints every workload with the result of the bare drivers; no ratio is checked."""
    command = [sys.executable, "-m", "tests.bench", "--scale", "small", "--rounds", "1"]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert [name for name in WORKLOADS if name not in result.stdout] == []
    assert "raw" in result.stdout
