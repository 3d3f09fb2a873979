"""Sentinel failovers while processes read and write: the drill of `tests.coherence.sentinel_drill`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from core import Settings
from tests.coherence.sentinel_drill import FAULTS, run_faults
from tests.matrix.caches.sentinels import run_sentinels
from tests.matrix.caches.servers import require_program

pytestmark = pytest.mark.slow


def test_failovers_under_load_cause_no_stale_read(
    fleet_settings: Settings, server_directory: Callable[[], Path], tmp_path: Path
) -> None:
    """A failover from an answering, a hung or a dead primary causes no stale read, error or lost write."""
    with run_sentinels(require_program("valkey"), server_directory) as sentinels:
        outcomes = run_faults(fleet_settings, sentinels, tmp_path)
    assert [outcome.fault for outcome in outcomes] == list(FAULTS)
    for outcome in outcomes:
        assert outcome.counts.examples == outcome.lost == []
        assert outcome.is_fine, outcome
        assert outcome.counts.writes > 0
