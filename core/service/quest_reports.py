"""Reports on the quests of all players: outcomes, completion times, returning players, stuck quests.

A quest has ended if it is COMPLETED, EXPIRED or past its `expires_at`. Any other quest is running.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from core.cache import Cached
from core.cache.kinds import QUESTS
from core.errors import InvalidInput
from core.queries import quest_reports as queries
from core.records import CompletionTimes, QuestOutcome, QuestReturn, StuckQuests
from core.service.argument_checks import check_day, check_int, check_limit, check_text
from core.service.writes import ServiceBase

RETURN_DAYS: Final = 7
"""A player counts as returned if they played again within this many days after a session."""
MAX_PLAYERS: Final = 100_000
MAX_STUCK: Final = 10_000
"""Largest `limit` of `list_stuck_quests`. The dashboard offers a file with up to this many rows."""
MIN_STUCK_AGE: Final = timedelta(days=7)
"""A quest without `expires_at` is not stuck before this age.

A quest with `expires_at` is not stuck before half of the time from `created_at` to `expires_at` has passed.
"""
UNSEEN_DAYS: Final = 7
ENDING_WITHIN: Final = timedelta(hours=24)
"""A quest that ends within this time is expiring, not stuck. A quest of one day is therefore never stuck."""


# No write invalidates the cached values below, because most of their statements take a second with millions
# of quests. The cached values expire.
_OUTCOMES = Cached(
    QUESTS,
    tuple[QuestOutcome, ...],
    lambda since, until: f"quests:outcomes:{since}:{until}",
    time_dependent=True,
)
_TIMES = Cached(
    QUESTS,
    CompletionTimes,
    lambda since, until, quest_type, count: f"quests:times:{since}:{until}:{count}:{quest_type}",
    time_dependent=True,
)
_RETURNS = Cached(
    QUESTS,
    tuple[QuestReturn, ...],
    lambda since, until, players: f"quests:returns:{since}:{until}:{players}",
    ttl_seconds=900,
    time_dependent=True,
)
_STUCK = Cached(
    QUESTS,
    StuckQuests,
    lambda quest_type, count: f"quests:stuck:{count}:{quest_type}",
    time_dependent=True,
)


class QuestReports(ServiceBase):
    """Calls of the service that report on quests."""

    def list_quest_outcomes(
        self, *, since: date | None = None, until: date | None = None
    ) -> tuple[QuestOutcome, ...]:
        """Return counts of the quests that ended in a period, by week, type and kind of reward.

        `since` and `until` are UTC dates, both included; None means no bound. Without `since`, quests that
        ended at an unknown time are counted too, with `week` None. The database maintains the counts, so the
        time of this call does not grow with the number of quests. The answer is at most 180 s old. Raises
        `InvalidInput`.
        """

        def load(since: date | None, until: date | None) -> tuple[QuestOutcome, ...]:
            return self._read(queries.list_outcomes, since, until, self._clock())

        return self._cache.get_or_load(_OUTCOMES, load, *_check_period(since, until))

    def get_completion_times(
        self,
        *,
        since: date | None = None,
        until: date | None = None,
        type: str | None = None,
        limit: int = 20,
    ) -> CompletionTimes:
        """Return the median time from the start to the completion of quests, overall and by title.

        Counts the quests of one `type` (None: of all) that were completed from `since` to `until` (UTC dates,
        both included; None means no bound). Lists at most `limit` titles, slowest first. Quests that were
        completed at an unknown time are left out. The answer is at most 180 s old. Raises `InvalidInput`.
        """
        quest_type = check_text(type, "type", max_length=50, required=False)

        def load(
            since: date | None, until: date | None, quest_type: str | None, count: int
        ) -> CompletionTimes:
            return self._read(
                queries.measure_times, _begin(since), _end(until), only_type=quest_type, limit=count
            )

        period = _check_period(since, until)
        return self._cache.get_or_load(_TIMES, load, *period, quest_type, check_limit(limit))

    def get_quest_returns(
        self, *, since: date | None = None, until: date | None = None, players: int = 5_000
    ) -> tuple[QuestReturn, ...]:
        """Return how often players with and without a quest of each type played again within 7 days.

        Counts sessions from `since` to `until` (UTC dates, both included; None means no bound) that ended at
        least 7 days ago. A session counts for a type if any player had a quest of the type on its day. A
        player has a quest from the day of `created_at` to the day of `expires_at`, completed or not. A quest
        without `expires_at` counts until it is completed. If there are more than `players` players (1 to
        100,000), a sample of that size is compared. A difference does not prove a cause. The answer is at
        most 900 s old. Raises `InvalidInput`.
        """
        first, last = _check_period(since, until)
        count = check_int(players, "players", minimum=1, maximum=MAX_PLAYERS)
        newest = self._clock().astimezone(UTC).date() - timedelta(days=RETURN_DAYS + 1)

        def load(since: date, until: date, players: int) -> tuple[QuestReturn, ...]:
            return self._read(queries.compare_returns, since, until, days=RETURN_DAYS, players=players)

        return self._cache.get_or_load(_RETURNS, load, first or date.min, min(last or newest, newest), count)

    def list_stuck_quests(self, *, type: str | None = None, limit: int = 100) -> StuckQuests:
        """Return how many running quests are stuck, and the first `limit` of them.

        Counts quests of one `type` (None: of all). A quest that ends within 24 hours is expiring, not stuck.
        Any other quest can be stuck after half of the time from `created_at` to `expires_at`, or after 7 days
        if it has no `expires_at`. It is stuck in any of three cases:

        - it has no progress;
        - its progress in percent is less than half of its elapsed time in percent, such as 20 % of the target
          after 71 % of the time;
        - its player was not seen for 7 days: `last_active` and the last session of the player are older
          than 00:00 UTC of the day 6 days ago.

        Quests of players who were seen come before those of other players, and older quests before newer
        ones. `limit` is up to 10,000. The answer is at most 180 s old. Raises `InvalidInput`.
        """

        def load(quest_type: str | None, count: int) -> StuckQuests:
            now = self._clock()
            seen_day = now.astimezone(UTC).date() - timedelta(days=UNSEEN_DAYS - 1)
            return self._read(
                queries.list_stuck,
                now,
                quest_type=quest_type,
                limit=count,
                minimum_age=MIN_STUCK_AGE,
                seen_since=datetime.combine(seen_day, time(), UTC),
                soon=now + ENDING_WITHIN,
            )

        quest_type = check_text(type, "type", max_length=50, required=False)
        return self._cache.get_or_load(_STUCK, load, quest_type, check_limit(limit, maximum=MAX_STUCK))


def _check_period(since: date | None, until: date | None) -> tuple[date | None, date | None]:
    first = None if since is None else check_day(since, "since")
    last = None if until is None else check_day(until, "until")
    if first is not None and last is not None and first > last:
        raise InvalidInput(f"since is {first}, after until {last}; give since <= until")
    return first, last


def _begin(day: date | None) -> datetime | None:
    return None if day is None else datetime.combine(day, time(), UTC)


def _end(day: date | None) -> datetime | None:
    """Return the end of a day (UTC); None for None, and for `date.max`, which has no next day."""
    return None if day is None or day == date.max else datetime.combine(day + timedelta(days=1), time(), UTC)
