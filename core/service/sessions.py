"""Sessions: lists their dates, summarises them, and closes them."""

from collections.abc import Sequence
from datetime import date, timedelta
from itertools import islice

from core.cache import Cached
from core.cache.kinds import LEADERBOARD
from core.errors import InvalidInput
from core.queries import leaderboard_reports, leaderboards
from core.queries import sessions as queries
from core.records import DAILY_RETURNS, SeenPlayers, SessionSummary
from core.service.argument_checks import (
    check_before,
    check_category,
    check_int,
    check_limit,
    check_session_date,
    check_session_to_write,
)
from core.service.writes import ServiceBase

MAX_SESSIONS = 100
MAX_SEEN_DAYS = 365


def _summary_key(returns: str, day: date) -> str:
    return f"leaderboard:summary:{returns}:{day}"


# No write invalidates the cached values below: they expire. Summaries of older sessions are kept longer,
# because they change only by corrections.
_NEWEST = Cached(LEADERBOARD, SessionSummary, _summary_key, ttl_seconds=60, time_dependent=True)
_PAST = Cached(LEADERBOARD, SessionSummary, _summary_key, ttl_seconds=900, time_dependent=True)


_UNDATED = Cached(
    LEADERBOARD, int, lambda: "leaderboard:undated-quests", ttl_seconds=900, time_dependent=True
)
_SEEN = Cached(
    LEADERBOARD,
    SeenPlayers,
    lambda first, last: f"leaderboard:seen:{first}:{last}",
    ttl_seconds=60,
    time_dependent=True,
)


class Sessions(ServiceBase):
    """Calls of the service about sessions."""

    def list_session_dates(self, *, limit: int = 365, before: date | None = None) -> tuple[date, ...]:
        """Return the sessions that have portfolios or leaderboard entries, newest first, uncached.

        `before` is the last date of the previous page; without it, the list begins at today's session (UTC).
        Sessions without any score yet are included; `list_leaderboard_dates` lists only sessions with a
        leaderboard. Sessions after tomorrow are always left out. Raises `InvalidInput`.
        """
        day, limit = check_before(before, self._clock()), check_limit(limit)
        return self._read(queries.list_dates, limit, day)

    def list_leaderboard_dates(
        self, category: str | None = None, *, limit: int = 30, before: date | None = None
    ) -> tuple[date, ...]:
        """Return the newest sessions in which a category (None: any) has entries, newest first, uncached.

        `before` is the last date of the previous page; without it, the list begins at today's session (UTC).
        Sessions after tomorrow are always left out. Raises `InvalidInput`.
        """
        count, day = check_limit(limit), check_before(before, self._clock())
        if category is None:
            return self._read(queries.list_dates_with_entries, count, day)
        return self._read(leaderboard_reports.list_dates, check_category(category), count, day)

    def get_session_summaries(
        self, *, limit: int = 14, returns: str = DAILY_RETURNS
    ) -> tuple[SessionSummary, ...]:
        """Return summaries of the newest sessions that have a leaderboard, newest first, up to today (UTC).

        `returns` is the category of the leaderboards from which the returns are taken. The newest summary is
        at most 60 s old, the others 900 s. Raises `InvalidInput`.
        """
        count = check_int(limit, "limit", minimum=1, maximum=MAX_SESSIONS)
        category = check_category(returns, "returns")
        before = check_before(None, self._clock())
        days = self._read(queries.list_dates_with_entries, count, before)
        by_key = {_summary_key(category, day): day for day in days}

        def load(missing: Sequence[date]) -> dict[date, SessionSummary]:
            found = self._read(queries.list_summaries, missing, returns=category)
            return {summary.session_date: summary for summary in found}

        newest, past = dict(islice(by_key.items(), 1)), dict(islice(by_key.items(), 1, None))
        summaries = {
            **self._cache.get_or_load_many(_NEWEST, newest, load),
            **self._cache.get_or_load_many(_PAST, past, load),
        }
        return tuple(summaries[key] for key in by_key if key in summaries)

    def get_seen_players(self, *, days: int = 1) -> SeenPlayers:
        """Return how many players were seen in the last `days` days, and how many exist.

        The last of these UTC days is today. A player was seen if `last_active` is on one of the days, or if
        they have a portfolio of a session on one of the days. Both numbers were counted at the same moment.
        The answer is at most 60 s old. Raises `InvalidInput`.
        """
        count = check_int(days, "days", minimum=1, maximum=MAX_SEEN_DAYS)
        today = check_session_date(None, self._clock())

        def load(first: date, last: date) -> SeenPlayers:
            return self._read(queries.get_seen, first, last)

        return self._cache.get_or_load(_SEEN, load, today - timedelta(days=count - 1), today)

    def count_undated_quests(self) -> int:
        """Return how many completed quests have no `completed_at`. No session summary counts these quests.

        The answer is at most 900 s old.
        """
        return self._cache.get_or_load(_UNDATED, lambda: self._read(queries.count_undated))

    def close_session(self, session_date: date) -> int:
        """Store the final rank of every leaderboard entry of a session. Return how many entries it has.

        Safe to repeat. An entry that is written meanwhile may keep its previous rank. Each statement may take
        ten minutes, whatever DATABASE_QUERY_TIMEOUT is. The session may be any up to tomorrow (UTC). Raises
        `InvalidInput`.
        """
        if session_date is None:
            raise InvalidInput("session_date is None; give the session to close")
        day = check_session_to_write(session_date, self._clock())

        def write() -> int:
            with self._write() as (database, _), database.with_long_timeout():
                return leaderboards.store_ranks(database, day)

        # A deadlock is possible: this call locks rows in the order in which they are stored, and
        # batch_update_leaderboard in the order of players.
        return self._retry_conflicts(write)
