"""Bulk loads for seeds, imports and backfills.

Owns the chunks and what a load invalidates. Every load is set-based (COPY, then one
upsert per chunk) and repeatable; each chunk is one transaction. Records come from the
program, not from people: their values are checked by the table's constraints, and a
broken one undoes its chunk with a `DatabaseError`. Of two records of one key the last wins.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter
from typing import TypeVar
from uuid import UUID

from core.cache.keys import (
    LEADERBOARD,
    MARKET_EVENTS,
    MARKET_EVENTS_VERSION_KEY,
    PORTFOLIO,
    QUESTS,
    USER,
    leaderboard_version_key,
    portfolio_key,
    quests_key,
    user_key,
)
from core.database import Database
from core.queries import bulk
from core.records import LeaderboardEntry, MarketEvent, Portfolio, Position, Quest, Tick, Trade, User
from core.service.base import Changes, ServiceBase, chunked
from core.service.inputs import check_records
from core.service.market import note_symbols

T = TypeVar("T")

CHUNK_ROWS = 20_000


class Loading(ServiceBase):
    """The bulk loads of the service."""

    def load_users(self, users: Iterable[User]) -> dict[str, UUID]:
        """Load users; return the id that each username has, which an existing one keeps."""
        ids: dict[str, UUID] = {}
        given = check_records(users, User, "users", "user")
        for chunk in chunked(given, CHUNK_ROWS):
            ids |= self._repeat(partial(self._load_users, _keep_last(bulk.USERS, chunk)))
        return ids

    def _load_users(self, chunk: Sequence[User]) -> dict[str, UUID]:
        with self._changing("load_users") as (database, changes), database.unhurried():
            bulk.load_rows(database, bulk.USERS, chunk)
            found = bulk.find_user_ids(database, [user.username for user in chunk])
            changes.invalidate(USER, *(user_key(user_id) for user_id in found.values()))
        return found

    def load_market_ticks(self, ticks: Iterable[Tick]) -> int:
        """Load ticks; return how many are new or changed."""
        return self._load(
            "load_market_ticks",
            bulk.TICKS,
            check_records(ticks, Tick, "ticks", "tick"),
            lambda _, changes, chunk: note_symbols(changes, {tick.symbol for tick in chunk}),
        )

    def load_portfolios(self, portfolios: Iterable[Portfolio]) -> int:
        """Load portfolios by user and session; return how many are new or changed."""
        return self._load(
            "load_portfolios",
            bulk.PORTFOLIOS,
            check_records(portfolios, Portfolio, "portfolios", "portfolio"),
            lambda _, changes, chunk: changes.invalidate(
                PORTFOLIO, *(portfolio_key(p.user_id, p.session_date) for p in chunk)
            ),
        )

    def load_positions(self, positions: Iterable[Position]) -> int:
        """Load positions by portfolio and symbol; return how many are new or changed.

        The portfolio has to exist. Positions that are there and not given stay.
        """
        given = check_records(positions, Position, "positions", "position")
        return self._load("load_positions", bulk.POSITIONS, given, lambda *_: None)

    def load_trades(self, trades: Iterable[Trade]) -> int:
        """Load trades by id; return how many are new or changed. The portfolio has to exist."""
        given = check_records(trades, Trade, "trades", "trade")
        return self._load("load_trades", bulk.TRADES, given, lambda *_: None)

    def load_leaderboard_entries(self, entries: Iterable[LeaderboardEntry]) -> int:
        """Load entries by user and board, ranks as given; return how many are new or changed."""
        return self._load(
            "load_leaderboard_entries",
            bulk.LEADERBOARD_ENTRIES,
            check_records(entries, LeaderboardEntry, "entries", "entry"),
            lambda _, changes, chunk: changes.invalidate(
                LEADERBOARD,
                *{leaderboard_version_key(e.category, e.session_date) for e in chunk},
            ),
        )

    def load_quests(self, quests: Iterable[Quest]) -> int:
        """Load quests by id, which may be another player's by now; return how many are new or changed."""

        def note(database: Database, changes: Changes, chunk: Sequence[Quest]) -> None:
            owners = {quest.user_id for quest in chunk}
            owners |= bulk.lock_quest_owners(database, [quest.id for quest in chunk])
            changes.invalidate(QUESTS, *map(quests_key, owners))

        return self._load("load_quests", bulk.QUESTS, check_records(quests, Quest, "quests", "quest"), note)

    def load_market_events(self, events: Iterable[MarketEvent]) -> int:
        """Load events by id; return how many are new or changed."""
        return self._load(
            "load_market_events",
            bulk.MARKET_EVENTS,
            check_records(events, MarketEvent, "events", "event"),
            lambda _, changes, __: changes.invalidate(MARKET_EVENTS, MARKET_EVENTS_VERSION_KEY),
        )

    def _load(
        self,
        operation: str,
        target: bulk.Target,
        records: Iterable[T],
        note: Callable[[Database, Changes, Sequence[T]], None],
    ) -> int:
        def write(chunk: Sequence[T]) -> int:
            with self._changing(operation) as (database, changes), database.unhurried():
                note(database, changes, chunk)
                return bulk.load_rows(database, target, chunk)

        return sum(
            self._repeat(partial(write, _keep_last(target, chunk))) for chunk in chunked(records, CHUNK_ROWS)
        )


def _keep_last(target: bulk.Target, records: Sequence[T]) -> list[T]:
    """Keep the last record of each key: one statement must not write a row twice."""
    key = attrgetter(*target.key)
    return list({key(record): record for record in records}.values())
