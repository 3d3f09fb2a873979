"""Standings: boards as people look at them, across places, players and sessions.

Sizes, distributions, searches, histories, periods and exports of leaderboards, and the
market that players are compared with. Only reads.
"""

from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from decimal import ROUND_FLOOR, Context, Decimal, InvalidOperation, localcontext
from statistics import median
from typing import Any
from uuid import UUID

import msgspec

from core.cache import Cached
from core.cache.kinds import LEADERBOARD, MARKET
from core.database import Database
from core.errors import InvalidInput
from core.queries import boards, insights, market_returns
from core.queries import standings as queries
from core.records import BoardSummary, LeaderboardEntry, MarketReturn, PeriodBoard, PlayerScore, ScoreBin
from core.service.base import ServiceBase
from core.service.inputs import (
    MAX_MONEY,
    MAX_OFFSET,
    MIN_MONEY,
    check_before,
    check_category,
    check_choice,
    check_day,
    check_decimal,
    check_each,
    check_flag,
    check_id,
    check_limit,
    check_prefix,
    check_session_date,
    check_time,
    check_whole,
    find_last_session,
)
from core.service.leaderboards import list_version_keys
from core.service.paging import STREAM_ROWS, check_after

MAX_BINS = 100
MAX_PERIOD_SESSIONS = 90
MAX_MARKET_DAYS = 3_660
# Of one statement: each is a probe of an index, and of an open session a count as well.
MAX_SCORES = 5_000
CENT = Decimal("0.01")

# Of this module: the caller's may have any precision, and raise on what is not exact.
_ARITHMETIC = Context(prec=40, traps=[InvalidOperation])

# Adding up 30 sessions of 100,000 players takes seconds, and one of them changes all the time.
PERIOD_SECONDS = 300


def _summary_key(category: str, day: date, bins: int, width: Decimal) -> str:
    return f"leaderboard:{category}:{day}:summary-{bins}-{width}"


_SUMMARY = Cached(LEADERBOARD, BoardSummary, _summary_key, depends_on=list_version_keys)
# A change of a score, or of a price, does not invalidate these.
_PERIOD = Cached(
    LEADERBOARD,
    PeriodBoard,
    lambda category, day, sessions, limit: f"leaderboard:{category}:{day}:last-{sessions}-{limit}",
    ttl_seconds=PERIOD_SECONDS,
    time_dependent=True,
)
_RETURNS = Cached(
    MARKET,
    tuple[MarketReturn, ...],
    lambda first, last: f"market:returns:{first}:{last}",
    time_dependent=True,
)


class Standings(ServiceBase):
    """The standings area of the service."""

    def count_leaderboard(self, category: str, session_date: date | None = None, *, prefix: str = "") -> int:
        """Return how many players a leaderboard (None: today's) has, exactly and as of now.

        With a prefix, how many of their usernames begin with it in any case, counted up to
        1,000. Raises `InvalidInput`.
        """
        board, prefix = self._check(category, session_date), check_prefix(prefix, most=50)
        if prefix:
            return self._read("count_leaderboard", queries.count_matches, *board, prefix)
        return self._read("count_leaderboard", queries.count_entries, *board)

    def list_leaderboard(
        self,
        category: str,
        session_date: date | None = None,
        *,
        limit: int = 50,
        offset: int = 0,
        order: str = "rank",
        prefix: str = "",
    ) -> tuple[LeaderboardEntry, ...]:
        """Return up to `limit` entries of a leaderboard (None: today's) from a place of an order on.

        The orders are `rank` (best first), `username`, and both backwards with a `-` before
        them; with a prefix, of the players only whose username begins with it in any case. The
        rank is that on the whole leaderboard. As of now. Raises `InvalidInput`.
        """
        board, prefix = self._check(category, session_date), check_prefix(prefix, most=50)
        order = check_choice(order, "order", queries.ORDERS)
        limit, offset = check_limit(limit), check_whole(offset, "offset", least=0, most=MAX_OFFSET)
        view = queries.View(order, prefix, limit, offset)
        if prefix:
            return self._read("list_leaderboard", queries.list_ordered, *board, view)
        return self._read("list_leaderboard", _list_whole, *board, view)

    def find_leaderboard_summary(
        self,
        category: str,
        session_date: date | None = None,
        *,
        bins: int = 24,
        least_width: Decimal = CENT,
    ) -> BoardSummary | None:
        """Return a leaderboard (None: today's) in figures, with the distribution of its scores.

        None without entries. The distribution has at most `bins` bins, equally wide with round
        edges, none narrower than `least_width`. At most 120 s old and never older than the last change
        through a service. Raises `InvalidInput`.
        """
        board = self._check(category, session_date)
        count = check_whole(bins, "bins", least=2, most=MAX_BINS)
        width = check_decimal(least_width, "least_width", least=CENT, most=MAX_MONEY)

        def load(category: str, day: date, bins: int, width: Decimal) -> BoardSummary | None:
            return self._read("find_leaderboard_summary", _find_summary, category, day, bins, width)

        return self._cache.get_or_load(_SUMMARY, load, *board, count, width)

    def list_leaderboard_dates(
        self, category: str | None = None, *, limit: int = 30, before: date | None = None
    ) -> tuple[date, ...]:
        """Return the newest sessions in which a category (None: any) has entries, newest first, as of now.

        `before` continues after the last day of the page before. Sessions after tomorrow, which
        an older release could store, are left out. Raises `InvalidInput`.
        """
        count, day = check_limit(limit), check_before(before, self._clock())
        if category is None:
            return self._read("list_leaderboard_dates", insights.list_session_days, count, day)
        return self._read("list_leaderboard_dates", queries.list_days, check_category(category), count, day)

    def list_player_scores(
        self,
        user_ids: Iterable[UUID | str],
        category: str,
        session_dates: Iterable[date],
        *,
        ranked: bool = False,
    ) -> tuple[PlayerScore, ...]:
        """Return the scores of players in sessions, by player and session, as of now.

        Who has no score in a session has no row for it. With `ranked` each has its rank: that
        which was stored when the session was closed, otherwise counted. At most 5,000 pairs of
        player and session. Raises `InvalidInput`.
        """
        given = check_each(user_ids, "user_ids", lambda user_id: check_id(user_id, "user_id"))
        sessions = check_each(session_dates, "session_dates", lambda day: check_day(day, "session_date"))
        # each pair once, however often it was given
        players, days = list(dict.fromkeys(given)), list(dict.fromkeys(sessions))
        category, ranked = check_category(category), check_flag(ranked, "ranked")
        pairs = len(players) * len(days)
        if pairs > MAX_SCORES:
            raise InvalidInput(f"{pairs} scores were asked for; give at most {MAX_SCORES} pairs")
        if not pairs:
            return ()
        return self._read("list_player_scores", queries.list_scores, players, category, days, ranked=ranked)

    def get_period_leaderboard(
        self,
        category: str,
        session_date: date | None = None,
        *,
        sessions: int = 7,
        limit: int = 50,
    ) -> PeriodBoard:
        """Return the best players by mean score of the sessions up to and with a date (None: today's).

        Of the `sessions` newest (at most 90) in which the category has entries; a session
        without a score counts as nothing. Adds up every entry of them: the answer is up to 300 s
        old, whatever was changed since. Raises `InvalidInput`.
        """
        category, day = self._check(category, session_date)
        count = check_whole(sessions, "sessions", least=1, most=MAX_PERIOD_SESSIONS)
        limit = check_limit(limit)
        return self._cache.get_or_load(_PERIOD, self._load_period, category, day, count, limit)

    def _load_period(self, category: str, day: date, sessions: int, limit: int) -> PeriodBoard:
        before = min(day, find_last_session(self._clock())) + timedelta(days=1)
        return self._read("get_period_leaderboard", _find_period, category, before, sessions, limit)

    def list_leaderboard_entries(
        self,
        category: str,
        session_date: date | None = None,
        *,
        limit: int = 100,
        after: LeaderboardEntry | None = None,
    ) -> tuple[LeaderboardEntry, ...]:
        """Return up to `limit` entries of a leaderboard (None: today's) with ranks, best first, as of now.

        `after` is the last entry of the page before: unlike `list_leaderboard`, which counts places,
        this one goes on where that entry stood, whatever has been written since. Raises
        `InvalidInput`.
        """
        board = self._check(category, session_date)
        last = check_after(after, LeaderboardEntry, category=board[0], session_date=board[1])
        if last is not None:
            score = check_decimal(last.score, "after.score", least=MIN_MONEY, most=MAX_MONEY)
            created_at = check_time(last.created_at, "after.created_at")
            last = msgspec.structs.replace(
                last, id=check_id(last.id, "after.id"), score=score, created_at=created_at
            )
        operation, count = "list_leaderboard_entries", check_limit(limit)
        return self._read(operation, queries.list_ranked_after, *board, last, count)

    def stream_leaderboard(
        self, category: str, session_date: date | None = None
    ) -> Iterator[LeaderboardEntry]:
        """Yield every entry of a leaderboard (None: today's), best first, with its rank.

        2,000 are held at a time. Each 2,000 are one statement, as of then, and no connection is held
        between them: an entry whose score changes meanwhile may come twice or not at all. Raises
        `InvalidInput`.
        """
        board = self._check(category, session_date)
        return self._stream(board)

    def _stream(self, board: tuple[str, date]) -> Iterator[LeaderboardEntry]:
        last: LeaderboardEntry | None = None
        place = 0
        while entries := self._read("stream_leaderboard", queries.list_after, *board, last, STREAM_ROWS):
            for entry in entries:
                place += 1
                rank = last.rank if last is not None and entry.score == last.score else place
                last = msgspec.structs.replace(entry, rank=rank)
                yield last

    def get_market_returns(self, start: date, end: date) -> tuple[MarketReturn, ...]:
        """Return what all symbols gained on average in each day with prices, oldest first.

        From the first price of a UTC day, or its open, to the last; both dates are included,
        3,660 days at most. At most 30 s old. Raises `InvalidInput`.
        """
        first, last = check_day(start, "start"), check_day(end, "end")
        if not 0 <= (last - first).days < MAX_MARKET_DAYS:
            raise InvalidInput(f"end is {last} and start {first}; give 1 to {MAX_MARKET_DAYS} days in order")

        def load(first: date, last: date) -> tuple[MarketReturn, ...]:
            return self._read("get_market_returns", market_returns.list_returns, first, last)

        return self._cache.get_or_load(_RETURNS, load, first, last)

    def _check(self, category: Any, session_date: Any) -> tuple[str, date]:
        return check_category(category), check_session_date(session_date, self._clock())


def _list_whole(
    database: Database, category: str, day: date, view: queries.View
) -> tuple[LeaderboardEntry, ...]:
    """Return a page of a whole board, read from the nearer end."""
    if view.order == "rank":
        return boards.list_page(database, category, day, view.limit, view.offset)
    size = queries.count_entries(database, category, day)
    length = min(view.limit, size - view.offset)
    if length <= 0:
        return ()
    other_end = size - view.offset - length
    if view.order == "-rank":
        return boards.list_page(database, category, day, length, other_end)[::-1]
    if view.offset <= other_end:
        return queries.list_ordered(database, category, day, view)
    back = queries.View(queries.REVERSED[view.order], "", length, other_end)
    return queries.list_ordered(database, category, day, back)[::-1]


def _find_summary(
    database: Database, category: str, day: date, bins: int, least_width: Decimal
) -> BoardSummary | None:
    players = queries.count_entries(database, category, day)
    # one entry in the middle, or two
    middle = boards.list_page(database, category, day, 2 - players % 2, max(players - 1, 0) // 2)
    best = boards.list_page(database, category, day, 1, 0)
    worst = queries.find_worst(database, category, day)
    if not middle or not best or worst is None:
        return None
    with localcontext(_ARITHMETIC):
        edges = choose_edges(worst, best[0].score, bins=bins, least_width=least_width)
        middle_score = median(entry.score for entry in middle)
    counted: tuple[ScoreBin, ...] = queries.count_bins(database, category, day, edges)
    return BoardSummary(
        session_date=day,
        category=category,
        players=players,
        leader=best[0].username,
        leaders=queries.count_from(database, category, day, best[0].score),
        best=best[0].score,
        median=middle_score,
        worst=worst,
        bins=counted,
    )


def _find_period(database: Database, category: str, before: date, sessions: int, limit: int) -> PeriodBoard:
    days = queries.list_days(database, category, sessions, before)
    players, entries = queries.list_period(database, category, days, limit)
    return PeriodBoard(days=days, players=players, entries=entries)


def choose_edges(low: Decimal, high: Decimal, *, bins: int, least_width: Decimal) -> list[Decimal]:
    """Return the edges of at most `bins` bins from below `low` to above `high`.

    They are multiples of a width that is 1, 2 or 5 times a power of ten.
    """
    width = _round_up(max((high - low) / (bins - 1), least_width))
    first, last = ((value / width).to_integral_value(ROUND_FLOOR) for value in (low, high))
    return [(first + n) * width for n in range(int(last - first) + 2)]


def _round_up(width: Decimal) -> Decimal:
    power = Decimal(1).scaleb(width.adjusted())
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= width)
