"""Ranks of daily returns without false ties.

A daily return is stored in percent with two decimals. With the starting cash of $10,000, 0.01 % is $1, so
players whose total values differ by less than $1 can have the same stored return and share a rank. The total
value leaderboard has the same order and is exact to the cent. If both leaderboards of a session agree (see
`find_source`), the pages show daily returns with the ranks of the total value leaderboard.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import islice
from uuid import UUID

import msgspec

from core import EnhancedDatabaseService
from core.records import (
    DAILY_RETURNS,
    TOTAL_VALUE,
    LeaderboardEntry,
    LeaderboardSummary,
    PeriodLeaderboard,
    PlayerScore,
)
from dashboard import runtime
from dashboard.categories import Category, describe_category
from dashboard.data import is_open_session

ROUNDING = Decimal("0.005")
"""Largest difference between an exact return and the same return rounded to two decimals."""

LEADERS_READ = 10
CHUNK_ROWS = 500


class ScoreSource(msgspec.Struct, frozen=True):
    """The leaderboards of one session that give a category its scores (`key`) and its ranks (`rank_key`).

    The two keys differ only for daily returns that are ranked by total value.
    """

    day: date
    key: str
    rank_key: str

    @property
    def is_by_value(self) -> bool:
        """Whether daily returns are ranked by total value."""
        return self.rank_key != self.key

    @property
    def base(self) -> Decimal:
        """The score of category `rank_key` that a mean over sessions uses for a session without a score."""
        return describe_category(self.rank_key).missed

    def convert(self, score: Decimal) -> Decimal:
        """Convert a score of leaderboard `rank_key` to the exact score of `key`: `$10,050` to `0.5`."""
        return (score - self.base) * 100 / self.base if self.is_by_value else score

    def convert_period(self, period: PeriodLeaderboard) -> PeriodLeaderboard:
        """Return a period leaderboard of `rank_key` with its scores converted to those of `key`.

        Each score in `period` is a mean of (score - `base`) over the sessions.
        """
        entries = (
            msgspec.structs.replace(entry, score=self.convert(entry.score + self.base))
            for entry in period.entries
        )
        return msgspec.structs.replace(period, entries=tuple(entries))

    def replace_scores(
        self, service: EnhancedDatabaseService, ranked: Sequence[LeaderboardEntry]
    ) -> tuple[LeaderboardEntry, ...]:
        """Return entries of leaderboard `rank_key` (`ranked`) with the scores of `key`, in the same order.

        In an open session, a stored return can be newer than the total value that gives the rank. In this
        case the return is computed from the total value, so that ranks and returns have the same order.
        """
        if not self.is_by_value or not ranked:
            return tuple(ranked)
        stored = service.list_player_scores([entry.user_id for entry in ranked], self.key, [self.day])
        scores = {row.user_id: row.score for row in stored}
        is_open = is_open_session(self.day, datetime.now(UTC))

        def pick(entry: LeaderboardEntry) -> Decimal:
            exact = self.convert(entry.score)
            score = scores.get(entry.user_id)
            if score is None or (is_open and abs(score - exact) > ROUNDING):
                return round(exact, 2)
            return score

        return tuple(msgspec.structs.replace(entry, category=self.key, score=pick(entry)) for entry in ranked)

    def list_scores(
        self, service: EnhancedDatabaseService, user_ids: Sequence[UUID]
    ) -> dict[UUID, PlayerScore]:
        """Return the score and rank of each player, by user id; players without a score are left out."""
        rows = service.list_player_scores(user_ids, self.rank_key, [self.day], ranked=True)
        ranked = {row.user_id: row for row in rows}
        if not self.is_by_value:
            return ranked
        return {
            row.user_id: msgspec.structs.replace(row, rank=ranked[row.user_id].rank)
            for row in service.list_player_scores(user_ids, self.key, [self.day])
            if row.user_id in ranked
        }

    def stream(self, service: EnhancedDatabaseService) -> Iterable[LeaderboardEntry]:
        """Yield every entry, best first, with its rank. Holds at most CHUNK_ROWS entries in memory."""
        entries = iter(service.stream_leaderboard(self.rank_key, self.day))
        while chunk := list(islice(entries, CHUNK_ROWS)):
            yield from self.replace_scores(service, chunk)

    def find_summary(
        self, service: EnhancedDatabaseService, *, least_width: Decimal
    ) -> LeaderboardSummary | None:
        """Return the summary of leaderboard `key`, or None if it has no entries.

        Its fields `best`, `leader` and `leaders` (the number of players on rank 1) come from leaderboard
        `rank_key`. `best` is always the score of `leader`, even if scores are written at the same time.
        `least_width` is the minimum width of a bin of the distribution.
        """
        summary = service.find_leaderboard_summary(self.key, self.day, least_width=least_width)
        if summary is None or not self.is_by_value:
            return summary
        top = service.get_leaderboard(self.rank_key, self.day, LEADERS_READ)
        if not top:
            return summary
        leaders = sum(entry.rank == 1 for entry in top)
        if leaders == LEADERS_READ:
            exact = service.find_leaderboard_summary(self.rank_key, self.day)
            leaders = exact.leaders if exact else leaders
        [first] = self.replace_scores(service, top[:1])
        return msgspec.structs.replace(summary, best=first.score, leader=first.username, leaders=leaders)


def find_source(service: EnhancedDatabaseService, category: Category, day: date) -> ScoreSource:
    """Return the leaderboards that give the scores and the ranks of a category in the session of `day`.

    Daily returns are ranked by total value if both leaderboards have equally many players and agree on the
    best and the lowest player. The result of this check can be five seconds old.
    """
    if category.key != DAILY_RETURNS:
        return ScoreSource(day, category.key, category.key)
    by_value = ScoreSource(day, DAILY_RETURNS, TOTAL_VALUE)
    is_exact = runtime.get_cache().get_or_load(
        (service, "is-exact", day), lambda: _have_equal_ends(service, by_value)
    )
    return by_value if is_exact else ScoreSource(day, DAILY_RETURNS, DAILY_RETURNS)


def list_rank_history(
    service: EnhancedDatabaseService, user_id: UUID, category: Category, days: Sequence[date]
) -> tuple[PlayerScore, ...]:
    """Return a player's score and rank in each of these sessions, oldest first.

    Daily returns are ranked by total value in each session where the player's return and total value agree.
    This check needs no read per session; `find_source` would read both leaderboards of every session.
    """
    if category.key != DAILY_RETURNS:
        return service.list_player_scores([user_id], category.key, days, ranked=True)
    returns = service.list_player_scores([user_id], DAILY_RETURNS, days)
    ranked = service.list_player_scores([user_id], TOTAL_VALUE, days, ranked=True)
    by_value = {row.session_date: row for row in ranked}

    def is_exact(row: PlayerScore) -> bool:
        value = by_value.get(row.session_date)
        source = ScoreSource(row.session_date, DAILY_RETURNS, TOTAL_VALUE)
        return value is not None and abs(row.score - source.convert(value.score)) <= ROUNDING

    exact = {row.session_date for row in returns if is_exact(row)}
    others = [row.session_date for row in returns if row.session_date not in exact]
    rounded = service.list_player_scores([user_id], DAILY_RETURNS, others, ranked=True) if others else ()
    ranks = {row.session_date: row.rank for row in rounded}
    ranks |= {day: by_value[day].rank for day in exact}
    return tuple(msgspec.structs.replace(row, rank=ranks.get(row.session_date)) for row in returns)


def _have_equal_ends(service: EnhancedDatabaseService, source: ScoreSource) -> bool:
    """Return whether the total value leaderboard can give the ranks of the daily returns.

    Both leaderboards must have equally many players, and the best and the lowest return must agree with the
    best and the lowest total value. They do not agree if the players of a game do not start with
    STARTING_CASH.
    """
    keys = (source.key, source.rank_key)
    players, others = (service.count_leaderboard(key, source.day) for key in keys)
    if not players or players != others:
        return False
    for order in ("rank", "-rank"):
        returns, values = (service.list_leaderboard(key, source.day, limit=1, order=order) for key in keys)
        if not returns or not values:
            return False
        if abs(returns[0].score - source.convert(values[0].score)) > ROUNDING:
            return False
    return True
