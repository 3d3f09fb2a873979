"""Reports on all players: figures by day, a summary, and lists of players who have stayed away."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

import msgspec

from core.cache import Cached
from core.cache.kinds import USER
from core.errors import InvalidInput
from core.queries import players as queries
from core.records import PlayerDay, PlayerReport, SilentPlayer
from core.service.argument_checks import (
    check_after,
    check_choice,
    check_day,
    check_id,
    check_int,
    check_limit,
    check_prefix,
    check_time,
    check_username,
)
from core.service.paging import stream_pages
from core.service.writes import ServiceBase

MAX_SILENT_DAYS = 3_650
MAX_SESSIONS = 1_000
MAX_DAYS = 90


def _day_key(day: date) -> str:
    return f"user:players:{day}"


# No write invalidates the cached values below: they expire. The figures of finished days are kept longer,
# because they change only by corrections and loads.
_OPEN_DAY = Cached(USER, PlayerDay, _day_key, ttl_seconds=60, time_dependent=True)
_PAST_DAYS = Cached(USER, PlayerDay, _day_key, ttl_seconds=3600, time_dependent=True)
# Building the report takes some seconds with a million players: it reads the portfolios of 13 weeks.
_REPORT = Cached(
    USER,
    PlayerReport,
    lambda today, weeks: f"user:players:{today}:{weeks}",
    ttl_seconds=900,
    time_dependent=True,
)


class PlayerReports(ServiceBase):
    """Calls of the service that report on all players."""

    def list_player_days(self, *, days: int = 30) -> tuple[PlayerDay, ...]:
        """Return how many players played, traded and joined on each of the last `days` days, oldest first.

        `days` is 1 to 90. The last day is today (UTC), whose session is open. Days without a session are
        included. The figures of today are at most 60 s old, those of other days at most 3600 s. Raises
        `InvalidInput`.
        """
        count, today = check_int(days, "days", minimum=1, maximum=MAX_DAYS), self._find_today()
        wanted = [today - timedelta(days=age) for age in range(count - 1, -1, -1)]

        def load(missing: Sequence[date]) -> dict[date, PlayerDay]:
            return {found.day: found for found in self._read(queries.list_days, missing)}

        past = self._cache.get_or_load_many(_PAST_DAYS, {_day_key(day): day for day in wanted[:-1]}, load)
        newest = self._cache.get_or_load_many(_OPEN_DAY, {_day_key(today): today}, load)
        found = {**past, **newest}
        return tuple(found[_day_key(day)] for day in wanted)

    def get_player_report(self, *, weeks: int = 13) -> PlayerReport:
        """Return a report on all players, whose parts `PlayerReport` describes.

        Players are counted by the day on which they were last seen, and by the length of their streak of
        sessions. For each of five periods, the report has the numbers of players who played, joined and
        returned. A cohort is all players who joined in the same week. There is a cohort for each of the last
        `weeks` weeks (1 to 13), the current week included. The answer is up to 900 s old, even
        after a change, because it has to read the sessions of 13 weeks. Raises `InvalidInput`.
        """
        count = check_int(weeks, "weeks", minimum=1, maximum=queries.MAX_WEEKS)

        def load(today: date, weeks: int) -> PlayerReport:
            return self._read(queries.build_report, today, weeks)

        return self._cache.get_or_load(_REPORT, load, self._find_today(), count)

    def list_silent_players(
        self,
        *,
        days: int = 30,
        sessions: int = 0,
        joined: date | None = None,
        prefix: str = "",
        order: str = "last_active",
        limit: int = 100,
        after: SilentPlayer | None = None,
    ) -> tuple[SilentPlayer, ...]:
        """Return up to `limit` players who were seen before, but not in the last `days` days, uncached.

        Lists only players who played at least `sessions` sessions, whose username begins with `prefix`
        (case-insensitive), and who joined in the week that begins on the Monday `joined` (None: any week). An
        order is `last_active` (latest first, players without this time last), `-last_active` (the reverse) or
        `username`. `after` is the last player of the previous page. Raises `InvalidInput`.
        """
        filters = _check_filters(days, sessions, joined, prefix)
        order, last = check_choice(order, "order", queries.ORDERS), _check_last(after)
        return self._read(
            queries.list_silent, filters, self._find_now(), order=order, last=last, limit=check_limit(limit)
        )

    def stream_silent_players(
        self,
        *,
        days: int = 30,
        sessions: int = 0,
        joined: date | None = None,
        prefix: str = "",
        order: str = "last_active",
        after: SilentPlayer | None = None,
    ) -> Iterator[SilentPlayer]:
        """Yield every player whom `list_silent_players` lists with the same filters and order.

        Reads batches of 2,000 players. Each batch is one statement with its own snapshot, and no connection
        is held between batches. `after` is the last player already read. Raises `InvalidInput`.
        """
        filters = _check_filters(days, sessions, joined, prefix)
        order, now = check_choice(order, "order", queries.ORDERS), self._find_now()

        def load(last: SilentPlayer | None, limit: int) -> tuple[SilentPlayer, ...]:
            return self._read(queries.list_silent, filters, now, order=order, last=last, limit=limit)

        return stream_pages(load, _check_last(after))

    def count_silent_players(
        self, *, days: int = 30, sessions: int = 0, joined: date | None = None, prefix: str = ""
    ) -> int:
        """Return how many players match the filters of `list_silent_players`, at most 10,000, uncached.

        Raises `InvalidInput`.
        """
        filters = _check_filters(days, sessions, joined, prefix)
        return self._read(queries.count_silent, filters, self._find_now())

    def _find_now(self) -> datetime:
        return self._clock().astimezone(UTC)

    def _find_today(self) -> date:
        return self._find_now().date()


def _check_filters(days: int, sessions: int, joined: date | None, prefix: str) -> queries.SilentFilters:
    week = None if joined is None else check_day(joined, "joined")
    if week is not None and week.weekday():
        raise InvalidInput(f"joined is {week}, which is no Monday; give the first day of a week")
    return queries.SilentFilters(
        check_int(days, "days", minimum=1, maximum=MAX_SILENT_DAYS),
        check_int(sessions, "sessions", minimum=0, maximum=MAX_SESSIONS),
        week,
        check_prefix(prefix, max_length=50),
    )


def _check_last(after: SilentPlayer | None) -> SilentPlayer | None:
    last = check_after(after, SilentPlayer)
    if last is None:
        return None
    active = last.last_active
    return msgspec.structs.replace(
        last,
        user_id=check_id(last.user_id, "after.user_id"),
        username=check_username(last.username),
        last_active=None if active is None else check_time(active, "after.last_active"),
    )
