"""A soak of a few seconds finds no stale read, and finds stale reads when a safeguard is removed."""

import subprocess
import sys
from pathlib import Path

import pytest

from core import Settings
from core.testing import ValkeyServer
from tests.coherence.history import Tier
from tests.coherence.load import LIMITS, REGISTERS, WRITE_SHARE, Ledger, Load, Team
from tests.coherence.registers import Game
from tests.coherence.soak import TEAMS, run_team

pytestmark = pytest.mark.slow

SECONDS = 5.0


@pytest.mark.parametrize("team", TEAMS, ids=lambda team: f"{team.processes} x {team.threads}")
def test_no_read_is_stale_under_load(
    fleet_settings: Settings, fleet_valkey: ValkeyServer, team: Team
) -> None:
    """While all threads of a team read and write leaderboards and portfolios, no read is stale."""
    counts = run_team(fleet_settings, fleet_valkey, team, seconds=SECONDS)
    assert counts.examples == []
    assert (counts.stale, counts.errors) == (0, 0)
    assert counts.writes > 0
    assert counts.writes < counts.reads * 2 * WRITE_SHARE


def test_the_command_fails_when_a_read_is_stale(repository: Path) -> None:
    """With a safeguard removed, the command prints some of the stale reads and exits with 1."""
    options = ("--seconds", "4", "--mutant", "skip_leaderboard_versions")
    command = [sys.executable, "-m", "tests.coherence.soak", *options]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert "stale" in result.stdout
    assert any(f"of leaderboard {limit} from the" in result.stdout for limit in LIMITS)


@pytest.mark.parametrize(("version", "is_wrong"), [(4, True), (5, False), (6, False), (7, True)])
def test_a_read_outside_written_versions_is_wrong(tmp_path: Path, version: int, *, is_wrong: bool) -> None:
    """A read is wrong if its version is below the last acknowledged or above the last begun write."""
    ledger = Ledger.create(tmp_path / "versions")
    place = REGISTERS.index("score:3")
    ledger.begun[place], ledger.acknowledged[place] = 6, 5
    answer: tuple[dict[str, int], Tier] = ({"score:3": version}, "shared")
    load = Load(None, Game("g", ()), ledger, Team(1, 1), read_with_tier=lambda _: answer)  # type: ignore[arg-type]  # the read is replaced
    assert bool(load._read("leaderboard", 10)) is is_wrong
