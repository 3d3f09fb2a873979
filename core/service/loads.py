"""Bulk loads for seeds, imports and backfills.

Splits the records into chunks, and decides which cache keys a load invalidates. A chunk is one transaction
with a COPY and one upsert. Every load can be repeated. `record_checks` owns the rules for a valid record.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from core.database import Database
from core.database.driver_errors import FOREIGN_KEY_VIOLATION, find_sqlstate
from core.errors import ConstraintViolated
from core.queries import loads as queries
from core.records import LeaderboardEntry, MarketEvent, Portfolio, Position, Quest, Tick, Trade, User
from core.service import record_checks
from core.service.argument_checks import check_records, show
from core.service.events import MARKET_EVENTS_VERSION_KEY
from core.service.leaderboards import leaderboard_version_key
from core.service.market import list_market_keys
from core.service.paging import chunked
from core.service.portfolios import portfolio_key
from core.service.quests import quests_key
from core.service.record_checks import RecordChecks, check_chunk
from core.service.users import user_key
from core.service.writes import Changes, ServiceBase, find_operation

T = TypeVar("T", bound=msgspec.Struct)

CHUNK_ROWS = 20_000


class Load(msgspec.Struct, frozen=True):
    """How records of one kind are loaded.

    Messages call several records `names` and one record `name`, for example `ticks` and `tick`. `list_keys`
    returns the cache keys to invalidate when a chunk of records is written.
    """

    target: queries.Target
    checks: RecordChecks[Any]
    names: str
    name: str
    list_keys: Callable[[Sequence[Any]], Iterable[str]] = lambda _: ()


USERS = Load(queries.USERS, record_checks.USERS, "users", "user")
TICKS = Load(
    queries.TICKS,
    record_checks.TICKS,
    "ticks",
    "tick",
    list_keys=lambda chunk: list_market_keys({tick.symbol for tick in chunk}),
)
PORTFOLIOS = Load(
    queries.PORTFOLIOS,
    record_checks.PORTFOLIOS,
    "portfolios",
    "portfolio",
    list_keys=lambda chunk: [portfolio_key(portfolio.user_id, portfolio.session_date) for portfolio in chunk],
)
POSITIONS = Load(queries.POSITIONS, record_checks.POSITIONS, "positions", "position")
TRADES = Load(queries.TRADES, record_checks.TRADES, "trades", "trade")
ENTRIES = Load(
    queries.LEADERBOARD_ENTRIES,
    record_checks.LEADERBOARD_ENTRIES,
    "entries",
    "entry",
    list_keys=lambda chunk: {leaderboard_version_key(entry.category, entry.session_date) for entry in chunk},
)
QUEST_ROWS = Load(queries.QUESTS, record_checks.QUESTS, "quests", "quest")
EVENTS = Load(
    queries.MARKET_EVENTS,
    record_checks.MARKET_EVENTS,
    "events",
    "event",
    list_keys=lambda _: [MARKET_EVENTS_VERSION_KEY],
)
# The end of the error message for a record whose user or portfolio does not exist. The keys are the columns
# of the violated foreign key.
REMEDIES = {
    ("user_id",): "which belongs to no user; create the user first with create_user or load_users",
    ("user_id", "session_date"): (
        "which no portfolio has; open it first with get_current_portfolio or load_portfolios"
    ),
}


class Loads(ServiceBase):
    """Calls of the service that load many records.

    Records are loaded in chunks of 20,000, and each chunk is one transaction: an error undoes its chunk, and
    the earlier chunks stay. Inside `transaction()` all records are loaded or none. A row that already has the
    same values is not written, so a load can be repeated. Of several records with the same key in a chunk,
    the last one is stored. Amounts and scores are rounded half-even to two decimals.
    """

    def load_users(self, users: Iterable[User]) -> dict[str, UUID]:
        """Insert or update users by username. Return the id of each user by username.

        An existing user keeps its id, `created_at` and `last_active`. Raises `InvalidInput` with the index of
        the wrong record, `ConstraintViolated` if the id of a new user belongs to another user, and
        `EncryptionKeyMissing` if there is an e-mail address but no key is set.
        """
        ids: dict[str, UUID] = {}

        def write(database: Database, changes: Changes, chunk: Sequence[User]) -> int:
            written, found = self._load_users(database, chunk)
            changes.invalidate(*(user_key(user_id) for user_id in found.values()))
            ids.update(found)
            return written

        self._load(USERS, users, write)
        return ids

    def _load_users(self, database: Database, users: Sequence[User]) -> tuple[int, dict[str, UUID]]:
        """Write users with encrypted addresses.

        Returns how many rows are new or changed, and the id of each user by username.
        """
        names = [user.username for user in users]
        has_address = any(user.email is not None for user in users)
        stored = queries.find_emails(database, names) if has_address else {}
        rows = self._emails.encrypt_rows(users, stored)
        written = queries.load_rows(database, queries.USERS, rows)
        ids = queries.find_user_ids(database, names)
        if has_address and any(row.id != ids[row.username] for row in rows):
            # Another writer created some of the users meanwhile, with other ids. These ids cannot change any
            # more, because the upsert has locked the rows. Encrypt again: a ciphertext can be decrypted only
            # with the id of its user.
            rows = self._emails.encrypt_rows(users, queries.find_emails(database, names))
            written += queries.load_rows(database, queries.USERS, rows)
        return written, ids

    def load_market_ticks(self, ticks: Iterable[Tick]) -> int:
        """Insert or update ticks by symbol and time. Return how many rows are new or changed.

        Raises `InvalidInput` with the index of the wrong record.
        """
        return self._load(TICKS, ticks)

    def load_portfolios(self, portfolios: Iterable[Portfolio]) -> int:
        """Insert or update portfolios by user and session. Return how many rows are new or changed.

        An existing portfolio keeps `id` and `created_at`. Raises `InvalidInput` with the index of the wrong
        record, and `ConstraintViolated` if its user does not exist or its id belongs to another portfolio.
        """
        return self._load(PORTFOLIOS, portfolios)

    def load_positions(self, positions: Iterable[Position]) -> int:
        """Insert or update positions by user, session and symbol. Return how many rows are new or changed.

        Stored positions that are not in the load stay. Raises `InvalidInput` with the index of the wrong
        record, and `ConstraintViolated` if its portfolio does not exist.
        """
        return self._load(POSITIONS, positions)

    def load_trades(self, trades: Iterable[Trade]) -> int:
        """Insert or update trades by id. Return how many rows are new or changed.

        Raises `InvalidInput` with the index of the wrong record, and `ConstraintViolated` if its portfolio
        does not exist.
        """

        def write(database: Database, _changes: Changes, chunk: Sequence[Trade]) -> int:
            queries.delete_moved(database, queries.TRADES, chunk)
            return queries.load_rows(database, queries.TRADES, chunk)

        return self._load(TRADES, trades, write)

    def load_leaderboard_entries(self, entries: Iterable[LeaderboardEntry]) -> int:
        """Insert or update entries by user, session and category. Return how many rows are new or changed.

        `rank` is stored as it is given: it becomes the final rank, which otherwise `close_session` stores.
        `username` is ignored. An existing entry keeps `id` and `created_at`. Raises `InvalidInput` with the
        index of the wrong record, and `ConstraintViolated` if its user does not exist or its id belongs to
        another entry.
        """
        return self._load(ENTRIES, entries)

    def load_quests(self, quests: Iterable[Quest]) -> int:
        """Insert or update quests by id. Return how many rows are new or changed.

        An existing quest gets every value of the record, also its user. A completed quest without
        `completed_at` is accepted, and counts as completed at an unknown time. Raises `InvalidInput` with the
        index of the wrong record, and `ConstraintViolated` if its user does not exist.
        """

        def write(database: Database, changes: Changes, chunk: Sequence[Quest]) -> int:
            owners = {quest.user_id for quest in chunk}
            # Invalidate the list of the previous user too: a load can move a quest to another user.
            owners |= queries.lock_quest_owners(database, chunk)
            changes.invalidate(*map(quests_key, owners))
            return queries.load_rows(database, queries.QUESTS, chunk)

        return self._load(QUEST_ROWS, quests, write)

    def load_market_events(self, events: Iterable[MarketEvent]) -> int:
        """Insert or update events by id. Return how many rows are new or changed.

        Raises `InvalidInput` with the index of the wrong record.
        """
        return self._load(EVENTS, events)

    def _load(
        self,
        load: Load,
        records: Iterable[T],
        write: Callable[[Database, Changes, Sequence[T]], int] | None = None,
    ) -> int:
        """Check and write records chunk by chunk. Return how many rows are new or changed.

        `write` writes one chunk, and adds the cache keys to invalidate. Without `write`, `load_rows` writes
        the chunk, and `load.list_keys` lists the keys.
        """
        operation = find_operation(sys._getframe(1))  # noqa: SLF001  # documented

        def write_chunk(chunk: Sequence[T]) -> int:
            with self._write_as(operation) as (database, changes), database.with_long_timeout():
                if write is not None:
                    return write(database, changes, chunk)
                changes.invalidate(*load.list_keys(chunk))
                return queries.load_rows(database, load.target, chunk)

        written = start = 0
        for given in chunked(check_records(records, load.target.record, load.names, load.name), CHUNK_ROWS):
            checked = check_chunk(given, load.checks, element=load.name, start=start, now=self._clock())
            try:
                written += self._retry_conflicts(partial(write_chunk, _keep_last(load.target, checked)))
            except ConstraintViolated as error:
                if not error.key:
                    find = queries.find_refused_key
                    refused = self._database.read(operation, find, load.target, error.constraint, checked)
                    error.key.update(refused)
                raise _name_record(error, load, checked, start) from error
            start += len(given)
        return written


def _keep_last(target: queries.Target, records: Sequence[T]) -> list[T]:
    """Return the last record of each key: an upsert cannot write the same row twice."""
    key = attrgetter(*target.key)
    return list({key(record): record for record in records}.values())


def _name_record(
    error: ConstraintViolated, load: Load, records: Sequence[T], start: int
) -> ConstraintViolated:
    """Return the error with a message that names the refused record by its index and key."""
    for place, record in enumerate(records, start):
        if error.key and all(str(getattr(record, name, None)) == value for name, value in error.key.items()):
            values = " and ".join(f"{name} {show(value)}" for name, value in error.key.items())
            reason = f"which another {load.name} has; give each {load.name} values of its own"
            if find_sqlstate(error) == FOREIGN_KEY_VIOLATION:
                reason = REMEDIES[tuple(error.key)]
            return ConstraintViolated(
                f"{load.name} {place} has {values}, {reason}", error.constraint, error.key
            )
    return error
