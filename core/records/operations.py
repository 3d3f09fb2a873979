"""Values that describe the running system: pool, cache, health, tables, statements, audit.

Owns their fields only. Never touches a server.
"""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from frozendict import frozendict

from core.records.record import Record


class PartitionReport(Record, frozen=True):
    """Partitions that were created and dropped, and ticks moved out of the default partition."""

    created: tuple[str, ...]
    dropped: tuple[str, ...]
    moved: int


AuditAction = Literal["clear_cache", "warm_cache", "close_session", "expire_quests", "sign_in", "sign_out"]
"""Actions of people that the audit log records."""


AuditChange = Literal["insert", "update", "delete"]
"""Changes of rows that the audit log records."""


AuditOutcome = Literal["started", "done", "failed", "refused"]
"""An event that stays `started` has an unknown outcome: the process died, or could not record it."""


class AuditEvent(Record, frozen=True):
    """One action of a person, or one change of a row by a person.

    `finished_at` and `detail` of an action are None until its outcome is known. For a change, `target` is the
    table and `row_key` the id of the row; `before` and `after` have the changed columns, or all columns if
    the row was inserted or deleted. They never contain an e-mail address, only whether there is one. All
    events of one request have the same `request_id`.
    """

    id: UUID
    actor: str
    action: AuditAction | AuditChange
    target: str
    outcome: AuditOutcome
    detail: str | None
    created_at: datetime
    finished_at: datetime | None
    request_id: str | None = None
    row_key: UUID | None = None
    before: frozendict[str, Any] | None = None
    after: frozendict[str, Any] | None = None


AuditBreakKind = Literal[
    "event_changed", "event_removed", "event_added", "month_removed", "seal_changed", "seal_removed"
]
"""What can be wrong with a sealed event, or with a seal."""


class AuditBreak(Record, frozen=True):
    """The first broken link of the audit log's chain of seals.

    `seal` is the number of the seal; for an added event, which is in no seal, the number of the newest seal.
    `event_id` is None when the seal itself is broken, or when something other than retention removed the
    whole month of its events.
    """

    kind: AuditBreakKind
    seal: int
    event_id: UUID | None = None


class AuditSealing(Record, frozen=True):
    """How many events a call sealed; `anchor` is the newest seal as `NUMBER:HASH`, None without a seal.

    A copy of `anchor` outside the database proves later whether the log up to that seal is unchanged.
    """

    events: int
    anchor: str | None


class AuditVerification(Record, frozen=True):
    """Result of verifying the audit log: intact when `broken` is None.

    `events` is the number of events that were compared with their seals, `dropped` the number that were
    dropped with their months, `unsealed` the number that wait for the next seal. `anchor` is the newest seal,
    as in `AuditSealing`.
    """

    seals: int
    events: int
    dropped: int
    unsealed: int
    anchor: str | None
    broken: AuditBreak | None


class PoolStats(Record, frozen=True):
    """Connection pool of this process, with the names that psycopg_pool uses; waits in seconds."""

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


class ReplicaStats(Record, frozen=True):
    """A replica as this process sees it; `number` is its place in DATABASE_REPLICA_URLS, from 1.

    `reason` says why the replica is not read from; None while it is used. `lag_seconds` is how far it was
    behind the primary when it answered last; None before its first answer.
    """

    number: int
    reason: str | None
    lag_seconds: float | None
    pool: PoolStats


class PoolUse(Record, frozen=True):
    """Connections of one process, or of several added up, at one moment."""

    pool_max: int
    pool_size: int
    pool_available: int
    pool_in_use: int
    requests_waiting: int
    is_exhausted: bool


class CacheCounts(Record, frozen=True):
    """Counters of one kind of key since the process started.

    `near_` counters belong to the near cache, the others to the shared cache.
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


class CacheStats(Record, frozen=True):
    """The cache of this process: `state` is enabled, disabled or down.

    `reason` says why Redis is bypassed or the near cache is off, in the words of the server or the
    system; None when both work as configured. `topology` is single, sentinel or cluster, None without
    a cache, and `server` the address of the server in use: HOST:PORT or the path of a socket, None
    before a primary has been found.
    """

    state: str
    caches: frozendict[str, CacheCounts]
    reason: str | None = None
    topology: str | None = None
    server: str | None = None


class Health(Record, frozen=True):
    """Result of one health evaluation; `status` is healthy, degraded or unhealthy.

    `database` is healthy, degraded (reads work; it is read-only or accepts no further connection) or
    unhealthy. `redis` is healthy, degraded (used, but not everything works), unhealthy or disabled.
    `database_reason` and `redis_reason` say why a service is not healthy, and contain no address.
    """

    status: str
    timestamp: datetime
    database: str
    database_seconds: float
    migrations_pending: int | None
    migrations_applied: int | None
    redis: str
    redis_enabled: bool
    redis_seconds: float
    redis_reason: str | None
    pool: PoolUse
    database_reason: str | None = None
    is_read_only: bool = False


class TableFigures(Record, frozen=True):
    """A table with all its partitions; `rows` is the server's estimate, sizes are on disk."""

    table: str
    size_bytes: int
    index_size_bytes: int
    rows: int


class EncryptionKeyUse(Record, frozen=True):
    """A key in ENCRYPTION_KEYS (`is_known`) or of stored values, and how many e-mail addresses it encrypts.

    The current key is the one that encrypts new values.
    """

    id: str
    emails: int
    is_known: bool
    is_current: bool


class Reencryption(Record, frozen=True):
    """Result of a batch: number of e-mail addresses changed, and users whose address cannot be decrypted.

    `last` is the user after whom the next batch begins, None when there is no further batch.
    """

    changed: int
    unreadable: tuple[UUID, ...]
    last: UUID | None


class UnusedIndex(Record, frozen=True):
    """An index that no query used since `unused_since`, or (None) since the database was created."""

    table: str
    index: str
    size_bytes: int
    unused_since: datetime | None


class StatementFigures(Record, frozen=True):
    """Server time and calls of one statement of the service since the server's statistics were reset."""

    operation: str
    statement: str
    calls: int
    total_seconds: float
    mean_seconds: float
    rows: int
