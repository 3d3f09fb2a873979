"""With a replica that lags, pauses or stops, no read returns a version older than an acknowledged write."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core import Settings
from core.migration import Migrator
from core.testing import ValkeyServer
from tests.coherence.conftest import make_fleet_settings
from tests.coherence.fleet import PATIENCE_SECONDS, run_fleet
from tests.coherence.load import Team
from tests.coherence.mutants import REPLICA_MUTANTS
from tests.coherence.scenarios import REPLICA_SCENARIOS, SCENARIOS
from tests.coherence.soak import LIMITS, run_team
from tests.patience import wait_until
from tests.replicas import ReplicaPair, disturbed, run_pair

PROCESSES = 3
# Short, because a fence lasts five seconds longer than this, and a scenario waits until it expires.
QUERY_MILLISECONDS = 1_500
PATIENT_MILLISECONDS = 10_000
SECONDS = float(os.environ.get("COHERENCE_REPLICA_SECONDS", "6"))
# Scenarios that kill a process; its fleet cannot run another scenario.
KILLING_SCENARIOS = [name for name in (*SCENARIOS, *REPLICA_SCENARIOS) if name.startswith("die_")]


@pytest.fixture(scope="module")
def pair(server_directory: Callable[[], Path]) -> Iterator[ReplicaPair]:
    """Yield a migrated primary with a replica."""
    with run_pair(server_directory) as pair:
        Migrator(pair.settings(None)).up()
        pair.wait_until_replayed()
        yield pair


@pytest.fixture(scope="module")
def replica_settings(pair: ReplicaPair, fleet_valkey: ValkeyServer) -> Settings:
    """Return settings with which the processes of a fleet use the replica."""
    given = pair.settings(fleet_valkey)
    return make_fleet_settings(given.database_url.get_secret_value(), fleet_valkey).model_copy(
        update={
            "database_replica_urls": given.database_replica_urls,
            "database_query_timeout": QUERY_MILLISECONDS,
            "redis_timeout": PATIENT_MILLISECONDS,
        }
    )


@pytest.mark.parametrize("name", REPLICA_SCENARIOS)
def test_no_interleaving_with_a_replica_causes_a_stale_read(
    replica_settings: Settings, fleet_valkey: ValkeyServer, name: str
) -> None:
    """While the replica has not replayed a write, no read returns the version from before the write."""
    with run_fleet(replica_settings, fleet_valkey, [None] * PROCESSES) as fleet:
        REPLICA_SCENARIOS[name](fleet)
        assert fleet.take_history().find_violations() == []


@pytest.mark.parametrize("mutant", REPLICA_MUTANTS)
def test_a_replica_mutant_is_caught(
    replica_settings: Settings, fleet_valkey: ValkeyServer, mutant: str
) -> None:
    """When a mutant skips the check of the replayed LSN, or stores no LSN, a read is stale."""
    with run_fleet(replica_settings, fleet_valkey, [mutant] * PROCESSES) as fleet:
        REPLICA_SCENARIOS["fill_from_a_replica_that_is_behind"](fleet)
        assert fleet.take_history().find_violations() != []


def test_no_interleaving_beside_a_paused_replica_causes_a_stale_read(
    replica_settings: Settings, fleet_valkey: ValkeyServer
) -> None:
    """The scenarios for a cache without replicas cause no stale read while a replica's replay is paused."""
    with run_fleet(replica_settings, fleet_valkey, [None] * PROCESSES) as fleet:
        wait_until(lambda: fleet[1].call("uses_replica"), "the replica is used", PATIENCE_SECONDS)
        for name, scenario in SCENARIOS.items():
            if name not in KILLING_SCENARIOS:
                with fleet.paused_replay():
                    scenario(fleet)
                    assert fleet.take_history().find_violations() == [], name


@pytest.mark.slow
def test_no_read_is_stale_while_a_replica_is_disturbed(
    replica_settings: Settings, pair: ReplicaPair, fleet_valkey: ValkeyServer
) -> None:
    """No read is stale in a soak while a replica is paused, slowed and stopped in turn."""
    settings = replica_settings.model_copy(update=LIMITS | {"database_query_timeout": 30_000})
    with disturbed(pair):
        counts = run_team(settings, fleet_valkey, Team(processes=3, threads=4), seconds=SECONDS)
    assert counts.examples == []
    assert (counts.stale, counts.errors) == (0, 0)
    assert counts.writes > 0
