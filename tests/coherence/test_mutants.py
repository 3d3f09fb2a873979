"""The scenarios can fail: each finds a stale read when its safeguard is removed from the cache."""

import pytest

from core import Settings
from core.testing import ValkeyServer
from tests.coherence.fleet import run_fleet
from tests.coherence.mutants import MUTANTS
from tests.coherence.scenarios import REVEALED_BY, SCENARIOS

PATIENT_MILLISECONDS = 10_000
PAIRS = [(mutant, scenario) for mutant, scenarios in sorted(REVEALED_BY.items()) for scenario in scenarios]


@pytest.mark.parametrize(("mutant", "scenario"), PAIRS)
def test_a_mutant_is_caught(
    fleet_settings: Settings, fleet_valkey: ValkeyServer, mutant: str, scenario: str
) -> None:
    """Without the safeguard that the mutant removes, the scenario ends in a violation."""
    # a short timeout on a busy machine bypasses Redis, and without Redis no read is stale
    settings = fleet_settings.model_copy(update={"redis_timeout": PATIENT_MILLISECONDS})
    with run_fleet(settings, fleet_valkey, [mutant] * 3) as fleet:
        SCENARIOS[scenario](fleet)
        assert fleet.take_history().find_violations() != []


def test_every_mutant_has_its_scenario() -> None:
    """Every mutant is listed with at least one existing scenario that must reveal it."""
    assert set(REVEALED_BY) == set(MUTANTS)
    assert {scenario for _, scenario in PAIRS} <= set(SCENARIOS)
