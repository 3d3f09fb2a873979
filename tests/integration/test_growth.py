"""The cost of a service call does not grow with the number of values in the near cache."""

import statistics
from decimal import Decimal

from core import EnhancedDatabaseService, Settings, open_service
from core.records import User
from tests.bench.growth import DAY, fill_cache, wait_for_near
from tests.steps import count_steps

CALLS = 20
# The limit is above 1, because the number of socket reads for one reply differs from call to call.
STEPS_RATIO = 1.3


def test_write_cost_is_independent_of_cache_size(settings: Settings, alice: User) -> None:
    """A score update takes at most 1.3 times as many steps with 10,000 cached values as with none."""
    with open_service(settings.model_copy(update={"near_cache_size": 20_000})) as service:
        wait_for_near(service)
        without = count_write(service, alice)
        fill_cache(service._cache, 10_000)
        assert len(service._cache._near) >= 10_000
        assert count_write(service, alice) <= without * STEPS_RATIO


def count_write(service: EnhancedDatabaseService, player: User) -> float:
    """Return the median number of steps of a score update and the following read of the leaderboard."""

    def act() -> None:
        service.update_leaderboard_entry(player.id, "growth", Decimal(1), DAY)
        service.get_leaderboard("growth", DAY, 50)

    act()
    return statistics.median(count_steps(act) for _ in range(CALLS))
