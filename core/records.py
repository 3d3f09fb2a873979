"""The immutable values that the service returns and accepts.

Owns shapes only: attributes are the column names. Never touches a server, so a
value can be shared by every thread and cached as it is. JSON columns are
`frozendict`: equal to a dict, accepted by `json.dumps`, not changeable.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from frozendict import frozendict


class User(msgspec.Struct, frozen=True):
    """A player's profile."""

    id: UUID
    username: str
    name: str | None
    email: str | None
    last_active: datetime | None
    preferences: frozendict[str, Any]
    created_at: datetime
    updated_at: datetime


class Portfolio(msgspec.Struct, frozen=True):
    """A player's portfolio in one session; money in units of virtual cash."""

    id: UUID
    user_id: UUID
    session_date: date
    starting_cash: Decimal
    current_cash: Decimal
    total_value: Decimal
    day_change: Decimal
    day_change_percent: Decimal
    created_at: datetime
    updated_at: datetime


class PortfolioUpdate(msgspec.Struct, frozen=True):
    """One row of `batch_update_portfolios`; `current_cash` None leaves the cash as it is."""

    user_id: UUID | str
    session_date: date
    total_value: Decimal
    day_change: Decimal
    current_cash: Decimal | None = None


class PlayerSession(msgspec.Struct, frozen=True):
    """Names what a player has in one session."""

    user_id: UUID
    session_date: date


class BatchResult(msgspec.Struct, frozen=True):
    """What a batch did: rows written, and the keys for which no row exists."""

    updated: int
    missing: tuple[PlayerSession, ...]


class Tick(msgspec.Struct, frozen=True):
    """A price of one symbol at one time.

    `price`, `bid`, `ask` and `change_24h` are money, `change_percent_24h` is in
    percent, `volatility` is the annualised standard deviation of daily log
    returns in percent. `open`, `high` and `low` are set on ticks that stand for
    a whole bar, such as an imported trading day; `price` is then its close.
    """

    symbol: str
    timestamp: datetime
    price: Decimal
    volume: int = 0
    bid: Decimal | None = None
    ask: Decimal | None = None
    change_24h: Decimal | None = None
    change_percent_24h: Decimal | None = None
    volatility: Decimal | None = None
    open: Decimal | None = None
    high: Decimal | None = None
    low: Decimal | None = None


class Candle(msgspec.Struct, frozen=True):
    """Open, high, low, close and volume of one bucket, aggregated by the database."""

    symbol: str
    bucket: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int
    ticks: int


class PartitionReport(msgspec.Struct, frozen=True):
    """What maintenance did: partitions created and dropped, and ticks moved to where they belong."""

    created: tuple[str, ...]
    dropped: tuple[str, ...]
    moved: int


class LeaderboardEntry(msgspec.Struct, frozen=True):
    """One row of a leaderboard; equal scores share `rank` (1, 2, 2, 4)."""

    id: UUID
    user_id: UUID
    username: str
    session_date: date
    category: str
    score: Decimal
    rank: int
    metadata: frozendict[str, Any]
    created_at: datetime


class LeaderboardUpdate(msgspec.Struct, frozen=True):
    """One row of `batch_update_leaderboard`."""

    user_id: UUID | str
    score: Decimal
    metadata: dict[str, object] | None = None


class PlayerScore(msgspec.Struct, frozen=True):
    """A player's score on a board in one session; `rank` is None where it was not asked for."""

    user_id: UUID
    session_date: date
    score: Decimal
    rank: int | None


class ScoreBin(msgspec.Struct, frozen=True):
    """How many scores of a board lie in [low, high)."""

    low: Decimal
    high: Decimal
    players: int


class BoardSummary(msgspec.Struct, frozen=True):
    """A board of at least one entry in figures; `leaders` counts who shares the best score."""

    session_date: date
    category: str
    players: int
    leader: str
    leaders: int
    best: Decimal
    median: Decimal
    worst: Decimal
    bins: tuple[ScoreBin, ...]


class PeriodEntry(msgspec.Struct, frozen=True):
    """A player over several sessions; `score` is the mean, a session without one being nothing.

    `sessions` are those with a score; equal sums share `rank`.
    """

    user_id: UUID
    username: str
    score: Decimal
    sessions: int
    rank: int


class PeriodBoard(msgspec.Struct, frozen=True):
    """The best players of several sessions, of all `players` who have a score in any of them."""

    days: tuple[date, ...]
    players: int
    entries: tuple[PeriodEntry, ...]


class MarketReturn(msgspec.Struct, frozen=True):
    """What the symbols gained in one day, in percent of its first price; the mean of `symbols`."""

    day: date
    percent: Decimal
    symbols: int


class Quest(msgspec.Struct, frozen=True):
    """A player's task; completed once `current_progress` reaches `target_value`."""

    id: UUID
    user_id: UUID
    type: str
    title: str
    description: str | None
    target_value: Decimal
    current_progress: Decimal
    status: str
    reward_type: str | None
    reward_value: Decimal | None
    created_at: datetime
    expires_at: datetime | None


class MarketEvent(msgspec.Struct, frozen=True):
    """Something that moved the market; `impact_magnitude` is in percent."""

    id: UUID
    type: str
    title: str
    description: str | None
    affected_symbols: tuple[str, ...]
    impact_magnitude: Decimal | None
    sentiment: str
    created_at: datetime


class Sparkline(msgspec.Struct, frozen=True):
    """The course of a symbol's price, oldest first; `times` and `prices` are equally long."""

    symbol: str
    times: tuple[datetime, ...]
    prices: tuple[Decimal, ...]


class SessionSummary(msgspec.Struct, frozen=True):
    """One session in figures.

    `signed_up` counts the players there were by the end of the day, `players` those on its
    board of returns. Returns are in percent, None without a board. `quests_completed` is
    the sum over its players of what each has completed in all so far, None without a board.
    """

    session_date: date
    signed_up: int
    players: int
    best_return: Decimal | None
    median_return: Decimal | None
    quests_completed: int | None
    events: int


class QuestTotals(msgspec.Struct, frozen=True):
    """All quests of one type and kind of reward.

    `started`, `halfway` and `completed` are parts of `given`, each of the one before;
    `active` can still be completed, of which `expiring` end within the time asked for.
    Rewards are sums: `earned` of the completed ones, `open` of the active ones.
    """

    type: str
    reward_type: str | None
    given: int
    started: int
    halfway: int
    completed: int
    active: int
    expiring: int
    earned: Decimal
    open: Decimal


class QuestPace(msgspec.Struct, frozen=True):
    """How fast players get on with the active quests of one title; means of them all."""

    type: str
    title: str
    players: int
    progress_percent: Decimal
    age_days: Decimal


class PlayerQuest(msgspec.Struct, frozen=True):
    """A quest with the name of its player."""

    username: str
    quest: Quest


class PoolStats(msgspec.Struct, frozen=True):
    """The pool of this process, in the words of psycopg_pool; waits in seconds."""

    pool_max: int
    pool_size: int
    pool_available: int
    pool_in_use: int
    requests_waiting: int
    requests_num: int
    requests_queued: int
    requests_wait_seconds: float
    requests_errors: int
    connections_num: int
    connections_errors: int
    connections_lost: int


class CacheCounts(msgspec.Struct, frozen=True):
    """Counters of one kind of key since the process started.

    Those of the near tier have its name; the others are of the shared tier.
    """

    requests: int
    hits: int
    misses: int
    bypasses: int
    invalidations: int
    stale_fills_refused: int
    near_requests: int
    near_hits: int
    near_misses: int


class CacheStats(msgspec.Struct, frozen=True):
    """The cache of this process: `state` is enabled, disabled or down."""

    state: str
    caches: frozendict[str, CacheCounts]


class Health(msgspec.Struct, frozen=True):
    """What one evaluation found; `status` is healthy, degraded or unhealthy."""

    status: str
    timestamp: datetime
    database: str
    database_seconds: float
    migrations_pending: int | None
    migrations_applied: int | None
    redis: str
    redis_enabled: bool
    redis_seconds: float
    pool: PoolStats


class TableFigures(msgspec.Struct, frozen=True):
    """A table with all its partitions; `rows` is the server's estimate, sizes are of the disk."""

    table: str
    size_bytes: int
    index_size_bytes: int
    rows: int


class UnusedIndex(msgspec.Struct, frozen=True):
    """An index that no query used since `unused_since`; None is since the database was created."""

    table: str
    index: str
    size_bytes: int
    unused_since: datetime | None


class StatementFigures(msgspec.Struct, frozen=True):
    """What one statement of the service cost the server since its statistics were reset."""

    operation: str
    statement: str
    calls: int
    total_seconds: float
    mean_seconds: float
    rows: int


_NOTHING: frozendict[str, Any] = frozendict()


def freeze(document: Any) -> Any:
    """Return a JSON value that cannot be changed: mappings as `frozendict`, lists as tuples.

    `frozendict.deepfreeze` does this for any type, and takes 50 us for an empty document.
    """
    if isinstance(document, dict):
        return frozendict({key: freeze(value) for key, value in document.items()}) if document else _NOTHING
    if isinstance(document, list | tuple):
        return tuple(freeze(item) for item in document)
    return document
