"""Sessions: their dates, their summaries, and their close."""

from collections.abc import Sequence
from datetime import date, timedelta
from itertools import islice

from core.cache import Cached
from core.cache.kinds import LEADERBOARD
from core.errors import InvalidInput
from core.queries import leaderboard_reports, leaderboards
from core.queries import sessions as queries
from core.records import DAILY_RETURNS, SeenPlayers, SessionSummary
from core.service.inputs import (
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


# No write invalidates these. Sessions before the newest change only when somebody corrects them.
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
    """The sessions area of the service."""

    def list_session_dates(self, *, limit: int = 365, before: date | None = None) -> tuple[date, ...]:
        """Return the sessions that have portfolios or leaderboard entries, newest first, as of now.

        `before` is the last day of the page before; without it, the list begins at today's session (UTC).
        Sessions whose players have no score yet are included; `list_leaderboard_dates` lists only sessions
        with a leaderboard. Sessions after tomorrow are always left out. Raises `InvalidInput`.
        """
        day, limit = check_before(before, self._clock()), check_limit(limit)
        return self._read(queries.list_dates, limit, day)

    def list_leaderboard_dates(
        self, category: str | None = None, *, limit: int = 30, before: date | None = None
    ) -> tuple[date, ...]:
        """Return the newest sessions in which a category (None: any) has entries, newest first, as of now.

        `before` is the last day of the page before; without it, the list begins at today's session (UTC).
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

        `returns` is the category of the leaderboard that the returns are taken from. The newest summary is
        at most 60 s old, the others 900 s. Raises `InvalidInput`.
        """
        count = check_int(limit, "limit", least=1, most=MAX_SESSIONS)
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
        """Return how many players were seen on the last `days` days (UTC, with today), and how many exist.

        A player was seen if their last activity was on one of these days, or if they have a portfolio of a
        session of these days. Both numbers are of one moment. At most 60 s old. Raises `InvalidInput`.
        """
        count = check_int(days, "days", least=1, most=MAX_SEEN_DAYS)
        today = check_session_date(None, self._clock())

        def load(first: date, last: date) -> SeenPlayers:
            return self._read(queries.get_seen, first, last)

        return self._cache.get_or_load(_SEEN, load, today - timedelta(days=count - 1), today)

    def count_undated_quests(self) -> int:
        """Return how many completed quests have no known time of completion, and so count in no session.

        At most 900 s old.
        """
        return self._cache.get_or_load(_UNDATED, lambda: self._read(queries.count_undated))

    def close_session(self, session_date: date) -> int:
        """Store the final rank of every entry of a session; return how many entries it has.

        Safe to repeat. An entry that is written meanwhile may keep its previous rank.
        Each statement may take ten minutes, whatever DATABASE_QUERY_TIMEOUT is. The session may be any up
        to tomorrow (UTC). Raises `InvalidInput`.
        """
        if session_date is None:
            raise InvalidInput("session_date is None; give the session to close")
        day = check_session_to_write(session_date, self._clock())

        def write() -> int:
            with self._write() as (database, _), database.with_long_timeout():
                return leaderboards.store_ranks(database, day)

        # retried after a deadlock: this locks rows in storage order, a batch update in the order of players
        return self._retry_conflicts(write)
