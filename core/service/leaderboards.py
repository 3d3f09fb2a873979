"""Leaderboards: the scores and ranks of players, by category and session."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from core.cache import Cached
from core.cache.kinds import LEADERBOARD, USERNAMES_VERSION_KEY, version_key
from core.errors import ConstraintViolated, LeaderboardEntryNotFound, UserNotFound
from core.queries import leaderboards as queries
from core.records import BatchResult, LeaderboardEntry, LeaderboardUpdate, PlayerSession
from core.service.argument_checks import (
    CENT,
    MAX_MONEY,
    MAX_OFFSET,
    MAX_RADIUS,
    MIN_MONEY,
    check_category,
    check_decimal,
    check_document,
    check_id,
    check_in_order,
    check_int,
    check_leaderboard,
    check_limit,
    check_records,
    check_session_date,
    check_session_to_write,
    list_accepted,
)
from core.service.paging import chunked
from core.service.writes import ServiceBase, new_id

CHUNK_ROWS = 5_000


def leaderboard_version_key(category: str, session_date: date) -> str:
    """Return the version key on which every cached value of a leaderboard depends."""
    return version_key(LEADERBOARD, category, session_date)


def list_version_keys(category: str, session_date: date, *_: object) -> tuple[str, str]:
    """Return the version keys of a cached leaderboard: one for its entries, one for the usernames in it."""
    return leaderboard_version_key(category, session_date), USERNAMES_VERSION_KEY


def _top_key(category: str, session_date: date, limit: int) -> str:
    return f"leaderboard:{category}:{session_date}:{limit}"


_TOP = Cached(LEADERBOARD, tuple[LeaderboardEntry, ...], _top_key, depends_on=list_version_keys)


class Leaderboards(ServiceBase):
    """Calls of the service about leaderboards."""

    def get_leaderboard(
        self,
        category: str,
        session_date: date | None = None,
        limit: int = 50,
        *,
        offset: int = 0,
    ) -> tuple[LeaderboardEntry, ...]:
        """Return up to `limit` entries of a leaderboard (None: today's), best first.

        The first `offset` entries are skipped. Equal scores share their rank (1, 2, 2, 4) and are ordered by
        the creation time of their entries. With offset 0 the answer is at most 120 s old, and never older
        than the last change through the service. With another offset it is not cached. Raises `InvalidInput`.
        """
        category, day = check_leaderboard(category, session_date, self._clock())
        limit, offset = check_limit(limit), check_int(offset, "offset", minimum=0, maximum=MAX_OFFSET)
        if offset:
            return self._read(queries.list_page, category, day, limit, offset)

        def load(category: str, day: date, limit: int) -> tuple[LeaderboardEntry, ...]:
            return self._read(queries.list_page, category, day, limit, 0)

        return self._cache.get_or_load(_TOP, load, category, day, limit)

    def _warm_leaderboard(self, operation: str, category: str, limits: Sequence[int]) -> None:
        """Cache the first entries of today's leaderboard for each of `limits`.

        One statement reads the entries for the largest limit that is not cached. The values for smaller
        limits are the first entries of this result.
        """
        day = check_session_date(None, self._clock())

        def load(missing: Sequence[int]) -> dict[int, tuple[LeaderboardEntry, ...]]:
            page = self._database.read(operation, queries.list_page, category, day, max(missing), 0)
            return {limit: page[:limit] for limit in missing}

        by_key = {_top_key(category, day, limit): limit for limit in limits}
        depends_on = list_version_keys(category, day)
        self._cache.get_or_load_many(_TOP, by_key, load, depends_on=depends_on)

    def get_user_rank(
        self, user_id: UUID | str, category: str, session_date: date | None = None
    ) -> LeaderboardEntry:
        """Return a player's entry on a leaderboard (None: today's) with its exact rank, uncached.

        Raises `LeaderboardEntryNotFound`, also for a user that does not exist, and `InvalidInput`.
        """
        checked = check_id(user_id, "user_id")
        category, day = check_leaderboard(category, session_date, self._clock())
        entry = self._read(queries.find_rank, checked, category, day)
        if entry is None:
            raise _no_entry(checked, category, day)
        return entry

    def get_leaderboard_around(
        self,
        user_id: UUID | str,
        category: str,
        session_date: date | None = None,
        *,
        radius: int = 5,
    ) -> tuple[LeaderboardEntry, ...]:
        """Return a player's entry on a leaderboard (None: today's), with its neighbours.

        There are up to `radius` entries above the player's entry, and up to `radius` below. The entries come
        best first, with exact ranks, uncached. Raises `LeaderboardEntryNotFound`, also for a user that does
        not exist, and `InvalidInput`.
        """
        checked = check_id(user_id, "user_id")
        category, day = check_leaderboard(category, session_date, self._clock())
        radius = check_int(radius, "radius", minimum=0, maximum=MAX_RADIUS)
        entries = self._read(queries.list_around, checked, category, day, radius)
        if not entries:
            raise _no_entry(checked, category, day)
        return entries

    def update_leaderboard_entry(
        self,
        user_id: UUID | str,
        category: str,
        score: Decimal,
        session_date: date | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> LeaderboardEntry:
        """Set a player's score on a leaderboard and return the entry with its rank.

        The score is rounded half-even to two decimals. Empty metadata keeps the stored metadata. The
        session (None: today's) may be any up to tomorrow (UTC). Raises `UserNotFound`, `InvalidInput`.
        """
        category, day = check_category(category), check_session_to_write(session_date, self._clock())
        row = _check_row(user_id, score, metadata)
        keys = [leaderboard_version_key(category, day)]

        def write() -> LeaderboardEntry | None:
            return self._write_one(keys, queries.set_score, category, day, row)

        # Retried if the user is deleted meanwhile: the statement still sees the user, but the check of the
        # foreign key does not. The next attempt finds no user.
        entry = self._retry_conflicts(write, ConstraintViolated)
        if entry is None:
            raise UserNotFound(f"no user has the id {row[1]}; create_user makes one")
        return entry

    def batch_update_leaderboard(
        self,
        category: str,
        updates: Iterable[LeaderboardUpdate],
        session_date: date | None = None,
    ) -> BatchResult:
        """Set many scores on one leaderboard, all or none.

        Runs one statement per 5,000 rows, in one transaction. Of two scores of one player the last is stored.
        Scores are rounded half-even to two decimals. The session (None: today's) may be any up to tomorrow
        (UTC). Players that do not exist are returned as missing. Raises `InvalidInput` with the index of the
        wrong update.
        """
        category, day = check_category(category), check_session_to_write(session_date, self._clock())
        given = check_records(updates, LeaderboardUpdate, "updates", "update")
        checked = check_in_order(
            given, "update", lambda update: _check_row(update.user_id, update.score, update.metadata)
        )
        last = {row[1]: row for row in checked}
        if not last:
            return BatchResult(updated=0, missing=())
        rows = [last[user_id] for user_id in sorted(last)]

        def write() -> set[UUID]:
            written: set[UUID] = set()
            with self._write() as (database, changes):
                changes.invalidate(leaderboard_version_key(category, day))
                for chunk in chunked(rows, CHUNK_ROWS):
                    written |= queries.upsert_entries(database, category, day, chunk)
            return written

        # retried for the same reason as in update_leaderboard_entry
        written = self._retry_conflicts(write, ConstraintViolated)
        missing = tuple(PlayerSession(user_id, day) for user_id in last if user_id not in written)
        return BatchResult(updated=len(written), missing=missing)

    def list_leaderboard_categories(self, session_date: date | None = None) -> tuple[str, ...]:
        """Return the categories that have entries in a session (None: today's), in alphabetical order.

        The answer is not cached. Leaves out a category with an invalid name, which only another program can
        have stored. Raises `InvalidInput`.
        """
        day = check_session_date(session_date, self._clock())
        return tuple(list_accepted(self._read(queries.list_categories, day), check_category))


def _check_row(user_id: Any, score: Any, metadata: Any) -> tuple[UUID, UUID, Decimal, dict[str, Any]]:
    checked = check_decimal(score, "score", minimum=MIN_MONEY, maximum=MAX_MONEY, quantum=CENT)
    return new_id(), check_id(user_id, "user_id"), checked, check_document(metadata, "metadata")


def _no_entry(user_id: UUID, category: str, day: date) -> LeaderboardEntryNotFound:
    return LeaderboardEntryNotFound(
        f"user {user_id} has no entry on leaderboard {category!r} in session {day};"
        " update_leaderboard_entry creates one"
    )
