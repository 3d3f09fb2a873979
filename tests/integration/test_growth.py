"""A call of the service does no more because its process has cached more."""

import statistics
from decimal import Decimal

from core import EnhancedDatabaseService, Settings, open_service
from core.records import User
from tests.bench.growth import DAY, fill_cache, wait_for_near
from tests.steps import count_steps

CALLS = 20
# how an answer arrives in parts differs from call to call
STEPS_RATIO = 1.3


def test_a_write_takes_the_same_steps_however_much_is_cached(settings: Settings, alice: User) -> None:
    """A score is written with 10,000 cached portfolios and leaderboards, and with none."""
    with open_service(settings.model_copy(update={"near_cache_size": 20_000})) as service:
        wait_for_near(service)
        without = count_write(service, alice)
        fill_cache(service._cache, 10_000)
        assert len(service._cache._near) >= 10_000
        assert count_write(service, alice) <= without * STEPS_RATIO


def count_write(service: EnhancedDatabaseService, player: User) -> float:
    """Return the median number of steps of writing a score and reading the leaderboard again."""

    def act() -> None:
        service.update_leaderboard_entry(player.id, "growth", Decimal(1), DAY)
        service.get_leaderboard("growth", DAY, 50)

    act()
    return statistics.median(count_steps(act) for _ in range(CALLS))
