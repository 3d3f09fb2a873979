"""`make bench` keeps working."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

OPERATIONS = (
    "import prices",
    "replay sessions",
    "leaderboard, top 50, cached",
    "user by id",
    "score written",
)


def test_bench_compares_with_the_bare_drivers(repository: Path) -> None:
    """Every operation is shown with its ratio; how large that is depends on the machine."""
    command = [sys.executable, "-m", "tests.bench", "--scale", "small"]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert [name for name in OPERATIONS if name not in result.stdout] == []
    assert result.stdout.count("ratio") == 2
