"""Reports on leaderboards: size, score distribution, search, scores of players, best players of a period."""

from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from decimal import ROUND_FLOOR, Decimal, localcontext
from statistics import median
from uuid import UUID

import msgspec

from core.cache import Cached
from core.cache.kinds import LEADERBOARD
from core.database import Database
from core.errors import InvalidInput
from core.queries import leaderboard_reports as queries
from core.queries import leaderboards
from core.records import (
    LeaderboardEntry,
    LeaderboardSummary,
    PeriodLeaderboard,
    PlayerScore,
    ScoreBin,
)
from core.service.argument_checks import (
    ARITHMETIC,
    CENT,
    MAX_MONEY,
    MAX_OFFSET,
    MIN_MONEY,
    check_after,
    check_bool,
    check_category,
    check_choice,
    check_day,
    check_decimal,
    check_each,
    check_id,
    check_int,
    check_leaderboard,
    check_limit,
    check_prefix,
    check_time,
    find_last_session,
)
from core.service.leaderboards import list_version_keys
from core.service.paging import stream_pages
from core.service.writes import ServiceBase

MAX_BINS = 100
NO_BASE = Decimal(0)
MAX_PERIOD_SESSIONS = 90
# Maximum number of scores that one statement reads. PostgreSQL looks up each score in an index. For a score
# in an open session it also counts the better scores, to compute the rank.
MAX_SCORES = 5_000


def _summary_key(category: str, day: date, bins: int, width: Decimal) -> str:
    return f"leaderboard:{category}:{day}:summary-{bins}-{width}"


_SUMMARY = Cached(LEADERBOARD, LeaderboardSummary, _summary_key, depends_on=list_version_keys)
# A change of a score does not invalidate a cached period leaderboard, because to compute it again takes
# seconds for 30 sessions of 100,000 players. The cached value expires after 300 s.
_PERIOD = Cached(
    LEADERBOARD,
    PeriodLeaderboard,
    lambda category, day, sessions, limit, base: (
        f"leaderboard:{category}:{day}:last-{sessions}-{limit}-{base}"
    ),
    ttl_seconds=300,
    time_dependent=True,
)


class LeaderboardReports(ServiceBase):
    """Calls of the service that report on leaderboards."""

    def count_leaderboard(self, category: str, session_date: date | None = None, *, prefix: str = "") -> int:
        """Return the exact number of players on a leaderboard (None: today's), uncached.

        With a `prefix`, counts only players whose username begins with the prefix (case-insensitive), and at
        most 1,000 of them. Raises `InvalidInput`.
        """
        leaderboard = check_leaderboard(category, session_date, self._clock())
        prefix = check_prefix(prefix, max_length=50)
        if prefix:
            return self._read(queries.count_matches, *leaderboard, prefix)
        return self._read(queries.count_entries, *leaderboard)

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
        """Return up to `limit` entries of a leaderboard (None: today's) in `order`.

        The first `offset` entries are skipped. An order is `rank` (best first), `-rank`, `username` or
        `-username`; the sign `-` means the reverse order. With a `prefix`, lists only players whose username
        begins with the prefix (case-insensitive). An entry always has its rank on the whole leaderboard. The
        answer is not cached. Raises `InvalidInput`.
        """
        leaderboard = check_leaderboard(category, session_date, self._clock())
        prefix = check_prefix(prefix, max_length=50)
        order = check_choice(order, "order", queries.ORDERS)
        limit, offset = check_limit(limit), check_int(offset, "offset", minimum=0, maximum=MAX_OFFSET)
        selection = queries.Selection(order, prefix, limit, offset)
        if prefix:
            return self._read(queries.list_ordered, *leaderboard, selection)
        return self._read(_list_whole, *leaderboard, selection)

    def find_leaderboard_summary(
        self,
        category: str,
        session_date: date | None = None,
        *,
        bins: int = 24,
        least_width: Decimal = CENT,
    ) -> LeaderboardSummary | None:
        """Return the key figures of a leaderboard (None: today's) and the distribution of its scores.

        Returns None for a leaderboard without entries. The distribution has at most `bins` bins. All bins
        have the same width, which is at least `least_width`, and their edges are round numbers. The answer is
        at most 120 s old, and never older than the last change through the service. Raises `InvalidInput`.
        """
        leaderboard = check_leaderboard(category, session_date, self._clock())
        count = check_int(bins, "bins", minimum=2, maximum=MAX_BINS)
        width = check_decimal(least_width, "least_width", minimum=CENT, maximum=MAX_MONEY)

        def load(category: str, day: date, bins: int, width: Decimal) -> LeaderboardSummary | None:
            return self._read(_find_summary, category, day, bins, width)

        return self._cache.get_or_load(_SUMMARY, load, *leaderboard, count, width)

    def list_player_scores(
        self,
        user_ids: Iterable[UUID | str],
        category: str,
        session_dates: Iterable[date],
        *,
        ranked: bool = False,
    ) -> tuple[PlayerScore, ...]:
        """Return the scores of some players in some sessions, uncached.

        The scores are ordered by player, then by session. A session in which the player has no score is left
        out. With `ranked`, each score has its rank: in a closed session the stored rank, in an open session a
        computed rank. Accepts up to 5,000 pairs of player and session. Raises `InvalidInput`.
        """
        given = check_each(user_ids, "user_ids", lambda user_id: check_id(user_id, "user_id"))
        sessions = check_each(session_dates, "session_dates", lambda day: check_day(day, "session_date"))
        players, days = list(dict.fromkeys(given)), list(dict.fromkeys(sessions))
        category, ranked = check_category(category), check_bool(ranked, "ranked")
        pairs = len(players) * len(days)
        if pairs > MAX_SCORES:
            raise InvalidInput(f"{pairs} scores were asked for; give at most {MAX_SCORES} pairs")
        if not pairs:
            return ()
        return self._read(queries.list_scores, players, category, days, ranked=ranked)

    def get_period_leaderboard(
        self,
        category: str,
        session_date: date | None = None,
        *,
        sessions: int = 7,
        limit: int = 50,
        base: Decimal = NO_BASE,
    ) -> PeriodLeaderboard:
        """Return the best players by mean score over several sessions up to a date (None: today's).

        Takes the newest `sessions` sessions (at most 90) that have entries in the category, up to and
        including the date. `base` is subtracted from each score. A session in which a player has no score
        counts as 0, from which `base` is not subtracted. The answer is up to 300 s old, even after a change,
        because it has to read every entry of these sessions. Raises `InvalidInput`.
        """
        category, day = check_leaderboard(category, session_date, self._clock())
        count = check_int(sessions, "sessions", minimum=1, maximum=MAX_PERIOD_SESSIONS)
        limit = check_limit(limit)
        base = check_decimal(base, "base", minimum=MIN_MONEY, maximum=MAX_MONEY, quantum=CENT)

        def load(category: str, day: date, sessions: int, limit: int, base: Decimal) -> PeriodLeaderboard:
            before = min(day, find_last_session(self._clock())) + timedelta(days=1)
            return self._read(_find_period, category, before, sessions, base=base, limit=limit)

        return self._cache.get_or_load(_PERIOD, load, category, day, count, limit, base)

    def list_leaderboard_entries(
        self,
        category: str,
        session_date: date | None = None,
        *,
        limit: int = 100,
        after: LeaderboardEntry | None = None,
    ) -> tuple[LeaderboardEntry, ...]:
        """Return up to `limit` entries of a leaderboard (None: today's) with ranks, best first, uncached.

        `after` is the last entry of the previous page (None: the first page). The page begins with the first
        entry that comes after the score and creation time of `after`, even if other entries were written
        meanwhile. (`list_leaderboard` skips a number of entries instead.) Raises `InvalidInput`.
        """
        leaderboard = check_leaderboard(category, session_date, self._clock())
        last = check_after(after, LeaderboardEntry, category=leaderboard[0], session_date=leaderboard[1])
        if last is not None:
            score = check_decimal(last.score, "after.score", minimum=MIN_MONEY, maximum=MAX_MONEY)
            created_at = check_time(last.created_at, "after.created_at")
            last = msgspec.structs.replace(
                last, id=check_id(last.id, "after.id"), score=score, created_at=created_at
            )
        return self._read(queries.list_after, *leaderboard, last, check_limit(limit), ranked=True)

    def stream_leaderboard(
        self, category: str, session_date: date | None = None
    ) -> Iterator[LeaderboardEntry]:
        """Yield every entry of a leaderboard (None: today's), best first, with its rank.

        Reads batches of 2,000 entries. Each batch is one statement with its own snapshot, and no connection
        is held between batches. An entry whose score changes meanwhile may be yielded twice or be missing.
        Raises `InvalidInput`.
        """
        leaderboard = check_leaderboard(category, session_date, self._clock())

        def load(last: LeaderboardEntry | None, limit: int) -> tuple[LeaderboardEntry, ...]:
            return self._read(queries.list_after, *leaderboard, last, limit, ranked=False)

        return _count_ranks(stream_pages(load))


def _count_ranks(entries: Iterable[LeaderboardEntry]) -> Iterator[LeaderboardEntry]:
    """Yield the entries with their ranks. `entries` has all entries of a leaderboard, best first."""
    last: LeaderboardEntry | None = None
    for place, entry in enumerate(entries, 1):
        rank = last.rank if last is not None and entry.score == last.score else place
        last = msgspec.structs.replace(entry, rank=rank)
        yield last


def _list_whole(
    database: Database, category: str, day: date, selection: queries.Selection
) -> tuple[LeaderboardEntry, ...]:
    """Return a page of the whole leaderboard, without a search for a prefix.

    A page in the order `-rank` is read in the order `rank` and then reversed. A page by username is read from
    the end of the leaderboard that is nearer to the page, because PostgreSQL reads the skipped entries too.
    """
    if selection.order == "rank":
        return leaderboards.list_page(database, category, day, selection.limit, selection.offset)
    size = queries.count_entries(database, category, day)
    length = min(selection.limit, size - selection.offset)
    if length <= 0:
        return ()
    other_end = size - selection.offset - length
    if selection.order == "-rank":
        return leaderboards.list_page(database, category, day, length, other_end)[::-1]
    if selection.offset <= other_end:
        return queries.list_ordered(database, category, day, selection)
    back = queries.Selection(queries.REVERSED[selection.order], "", length, other_end)
    return queries.list_ordered(database, category, day, back)[::-1]


def _find_summary(
    database: Database, category: str, day: date, bins: int, least_width: Decimal
) -> LeaderboardSummary | None:
    players = queries.count_entries(database, category, day)
    # The median needs one middle entry if the number of players is odd, and two if the number is even.
    middle = leaderboards.list_page(database, category, day, 2 - players % 2, max(players - 1, 0) // 2)
    best = leaderboards.list_page(database, category, day, 1, 0)
    worst = queries.find_worst(database, category, day)
    if not middle or not best or worst is None:
        return None
    with localcontext(ARITHMETIC):
        edges = choose_edges(worst, best[0].score, bins=bins, least_width=least_width)
        middle_score = median(entry.score for entry in middle)
    counted: tuple[ScoreBin, ...] = queries.count_bins(database, category, day, edges)
    return LeaderboardSummary(
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


def _find_period(
    database: Database, category: str, before: date, sessions: int, *, base: Decimal, limit: int
) -> PeriodLeaderboard:
    days = queries.list_dates(database, category, sessions, before)
    players, entries = queries.list_period(database, category, days, base=base, limit=limit)
    return PeriodLeaderboard(days=days, players=players, entries=entries)


def choose_edges(low: Decimal, high: Decimal, *, bins: int, least_width: Decimal) -> list[Decimal]:
    """Return the edges of at most `bins` bins of equal width; all scores from `low` to `high` are in a bin.

    The width is at least `least_width`, and 1, 2 or 5 times a power of ten. The edges are multiples of the
    width.
    """
    width = _round_up(max((high - low) / (bins - 1), least_width))
    first, last = ((value / width).to_integral_value(ROUND_FLOOR) for value in (low, high))
    return [(first + n) * width for n in range(int(last - first) + 2)]


def _round_up(width: Decimal) -> Decimal:
    power = Decimal(1).scaleb(width.adjusted())
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= width)
