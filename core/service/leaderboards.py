"""Leaderboards: scores and ranks of a session by category."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from core.cache import Cached
from core.cache.kinds import LEADERBOARD, USERNAMES_VERSION_KEY, version_key
from core.errors import ConstraintViolated, InvalidInput, LeaderboardEntryNotFound, UserNotFound
from core.queries import boards, leaderboards
from core.records import BatchResult, LeaderboardEntry, LeaderboardUpdate, PlayerSession
from core.service.base import ServiceBase, chunked, new_id
from core.service.inputs import (
    CENT,
    MAX_MONEY,
    MAX_OFFSET,
    MAX_RADIUS,
    MIN_MONEY,
    check_category,
    check_decimal,
    check_document,
    check_id,
    check_limit,
    check_records,
    check_session_date,
    check_session_to_write,
    check_whole,
)

CHUNK_ROWS = 5_000


def leaderboard_version_key(category: str, session_date: date) -> str:
    """Name the version key that every cached value of a leaderboard depends on."""
    return version_key(LEADERBOARD, category, session_date)


def list_version_keys(category: str, session_date: date, *_: object) -> tuple[str, str]:
    """Return the version keys of a cached leaderboard: its entries, and all usernames."""
    return leaderboard_version_key(category, session_date), USERNAMES_VERSION_KEY


def _top_key(category: str, session_date: date, limit: int) -> str:
    return f"leaderboard:{category}:{session_date}:{limit}"


_TOP = Cached(LEADERBOARD, tuple[LeaderboardEntry, ...], _top_key, depends_on=list_version_keys)


class Leaderboards(ServiceBase):
    """The leaderboards area of the service."""

    def get_leaderboard(
        self,
        category: str,
        session_date: date | None = None,
        limit: int = 50,
        *,
        offset: int = 0,
    ) -> tuple[LeaderboardEntry, ...]:
        """Return up to `limit` entries of a leaderboard (None: today's) from place `offset` on, best first.

        Equal scores share their rank (1, 2, 2, 4) and stand in the order in which their entries were
        created. The top (offset 0) is at most 120 s old and never older than the last change
        through a service; other pages are as of now. Raises `InvalidInput`.
        """
        category, day = self._check_board(category, session_date)
        limit, offset = check_limit(limit), _check_offset(offset)
        if offset:
            return self._load_page(category, day, limit, offset)
        return self._cache.get_or_load(_TOP, self._load_page, category, day, limit)

    def _warm_board(self, category: str, limits: Sequence[int]) -> None:
        """Fill the limits of today's board: each is the beginning of the largest."""
        day = check_session_date(None, self._clock())

        def load(missing: Sequence[int]) -> dict[int, tuple[LeaderboardEntry, ...]]:
            page = self._load_page(category, day, max(missing))
            return {limit: page[:limit] for limit in missing}

        by_key = {_top_key(category, day, limit): limit for limit in limits}
        depends_on = list_version_keys(category, day)
        self._cache.get_or_load_many(_TOP, by_key, load, depends_on=depends_on)

    def _load_page(
        self, category: str, day: date, limit: int, offset: int = 0
    ) -> tuple[LeaderboardEntry, ...]:
        return self._read("get_leaderboard", boards.list_page, category, day, limit, offset)

    def get_user_rank(
        self, user_id: UUID | str, category: str, session_date: date | None = None
    ) -> LeaderboardEntry:
        """Return a player's entry on a leaderboard (None: today's) with its exact rank, as of now.

        Raises `LeaderboardEntryNotFound`, also for a user that does not exist, and `InvalidInput`.
        """
        checked = check_id(user_id, "user_id")
        category, day = self._check_board(category, session_date)
        entry = self._read("get_user_rank", boards.find_rank, checked, category, day)
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
        """Return a player's entry on a leaderboard (None: today's) with up to `radius` on each side.

        Best first, with exact ranks, as of now. Raises `LeaderboardEntryNotFound`, also for a user
        that does not exist, and `InvalidInput`.
        """
        checked = check_id(user_id, "user_id")
        category, day = self._check_board(category, session_date)
        radius = check_whole(radius, "radius", least=0, most=MAX_RADIUS)
        entries = self._read("get_leaderboard_around", boards.list_around, checked, category, day, radius)
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

        The score is rounded half-even to two decimals. Empty metadata leaves what is there. The
        session (None: today's) is up to tomorrow (UTC). Raises `UserNotFound`, `InvalidInput`.
        """
        category, day = self._check_board(category, session_date, is_write=True)
        row = _check_row(LeaderboardUpdate(user_id, score, metadata))  # type: ignore[arg-type]  # checked in there
        keys = [leaderboard_version_key(category, day)]

        def write() -> LeaderboardEntry | None:
            return self._change_alone(
                "update_leaderboard_entry", keys, leaderboards.set_score, category, day, row
            )

        # a player that is deleted meanwhile is there for the statement, and not for its constraint
        entry = self._repeat(write, ConstraintViolated)
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

        One statement per 5,000 rows in one transaction; of two scores of one player the last
        wins. Scores are rounded half-even to two decimals, and the session (None: today's) is up
        to tomorrow (UTC). Players that do not exist are returned as missing. Raises `InvalidInput`,
        naming the place of the update in the batch.
        """
        category, day = self._check_board(category, session_date, is_write=True)
        given = enumerate(check_records(updates, LeaderboardUpdate, "updates", "update"))
        last = {row[1]: row for row in (_check_at(place, update) for place, update in given)}
        if not last:
            return BatchResult(updated=0, missing=())
        rows = [last[user_id] for user_id in sorted(last)]

        def write() -> set[UUID]:
            written: set[UUID] = set()
            with self._changing("batch_update_leaderboard") as (database, changes):
                changes.invalidate(leaderboard_version_key(category, day))
                for chunk in chunked(rows, CHUNK_ROWS):
                    written |= leaderboards.upsert_entries(database, category, day, chunk)
            return written

        # as for a single entry
        written = self._repeat(write, ConstraintViolated)
        missing = tuple(PlayerSession(user_id, day) for user_id in last if user_id not in written)
        return BatchResult(updated=len(written), missing=missing)

    def close_session(self, session_date: date) -> int:
        """Store the final rank of every entry of a session; return how many entries it has.

        Safe to repeat. An entry that is written meanwhile may be left with the rank it had.
        Each statement may take ten minutes, whatever DATABASE_QUERY_TIMEOUT is. The session is up
        to tomorrow (UTC). Raises `InvalidInput`.
        """
        if session_date is None:
            raise InvalidInput("session_date is None; give the session to close")
        day = check_session_to_write(session_date, self._clock())

        def write() -> int:
            with self._changing("close_session") as (database, _), database.with_long_timeout():
                return leaderboards.store_ranks(database, day)

        # it locks rows in the order in which they are stored, and batches in that of their players
        return self._repeat(write)

    def list_leaderboard_categories(self, session_date: date | None = None) -> tuple[str, ...]:
        """Return the categories that have entries in a session (None: today's), in alphabetical order.

        As of now. Raises `InvalidInput`.
        """
        day = check_session_date(session_date, self._clock())
        return self._read("list_leaderboard_categories", leaderboards.list_categories, day)

    def _check_board(self, category: Any, session_date: Any, *, is_write: bool = False) -> tuple[str, date]:
        check_day = check_session_to_write if is_write else check_session_date
        return check_category(category), check_day(session_date, self._clock())


def _check_offset(value: Any) -> int:
    return check_whole(value, "offset", least=0, most=MAX_OFFSET)


def _check_row(update: LeaderboardUpdate) -> tuple[UUID, UUID, Decimal, dict[str, Any] | None]:
    score = check_decimal(update.score, "score", least=MIN_MONEY, most=MAX_MONEY, quantum=CENT)
    metadata = check_document(update.metadata, "metadata")
    return new_id(), check_id(update.user_id, "user_id"), score, metadata


def _check_at(place: int, update: LeaderboardUpdate) -> tuple[UUID, UUID, Decimal, dict[str, Any] | None]:
    try:
        return _check_row(update)
    except InvalidInput as error:
        raise InvalidInput(f"update {place}: {error}") from error


def _no_entry(user_id: UUID, category: str, day: date) -> LeaderboardEntryNotFound:
    return LeaderboardEntryNotFound(
        f"user {user_id} has no entry on {category} in the session {day}; update_leaderboard_entry makes one"
    )
