"""Failovers by real sentinels under load: no read is stale, no write is lost, and all heals in time."""

from collections.abc import Callable
from pathlib import Path

import pytest

from core import Settings
from tests.coherence.sentinel_drill import FAULTS, run_faults
from tests.matrix.caches.sentinels import run_sentinels
from tests.matrix.caches.servers import require_program

pytestmark = pytest.mark.slow


def test_failovers_under_load(
    fleet_settings: Settings, server_directory: Callable[[], Path], tmp_path: Path
) -> None:
    """No read is stale when the replica is promoted while the primary answers, hangs or is dead."""
    with run_sentinels(require_program("valkey"), server_directory) as sentinels:
        outcomes = run_faults(fleet_settings, sentinels, tmp_path)
    assert [outcome.fault for outcome in outcomes] == list(FAULTS)
    for outcome in outcomes:
        assert outcome.counts.examples == outcome.lost == []
        assert outcome.is_fine, outcome
        assert outcome.counts.writes > 0
