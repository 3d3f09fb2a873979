"""The suite can fail: the cache without one of its safeguards is caught, each time."""

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
    """The scenario of this safeguard ends in a violation once the safeguard is gone."""
    # a cache that is bypassed because the machine is busy is never wrong
    settings = fleet_settings.model_copy(update={"redis_timeout": PATIENT_MILLISECONDS})
    with run_fleet(settings, fleet_valkey, [mutant] * 3) as fleet:
        SCENARIOS[scenario](fleet)
        assert fleet.take_history().find_violations() != []


def test_every_mutant_has_its_scenario() -> None:
    """Every mutant is listed with the scenario that has to catch it."""
    assert set(REVEALED_BY) == set(MUTANTS)
    assert {scenario for _, scenario in PAIRS} <= set(SCENARIOS)
