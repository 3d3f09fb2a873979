"""Records that describe the running system: pool, cache, health, tables, statements, audit.

Owns only the fields of these records. Never touches a server.
"""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from frozendict import frozendict

from core.records.record import Record


class PartitionReport(Record, frozen=True):
    """The names of the partitions that were created and dropped, and the number of ticks that were moved.

    Ticks are moved from the default partition to the partition of their month.
    """

    created: tuple[str, ...]
    dropped: tuple[str, ...]
    moved: int


AuditAction = Literal["clear_cache", "warm_cache", "close_session", "expire_quests", "sign_in", "sign_out"]
"""The actions of people that the audit log records."""


AuditChange = Literal["insert", "update", "delete"]
"""The changes of rows that the audit log records."""


AuditOutcome = Literal["started", "done", "failed", "refused"]
"""The outcome of an event. If it stays `started`, the process ended or could not record the outcome."""


class AuditEvent(Record, frozen=True):
    """One action of a person, or one change of a row by a person.

    `finished_at` and `detail` of an action are None until its outcome is known. For a change, `target` is the
    table and `row_key` is the id of the row. `before` and `after` have the columns that changed, or all
    columns if the row was inserted or deleted. They never contain an e-mail address, but they show whether
    there is one. All events of one request have the same `request_id`.
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
"""The ways in which the audit log can differ from its seals."""


class AuditBreak(Record, frozen=True):
    """The first difference between the audit log and its chain of seals.

    `seal` is the number of the seal that does not match. An added event is in no seal; for such an event,
    `seal` is the number of the newest seal. `event_id` is None if the seal itself was changed or removed. It
    is also None if the month of the events was removed by something other than retention.
    """

    kind: AuditBreakKind
    seal: int
    event_id: UUID | None = None


class AuditSealing(Record, frozen=True):
    """The number of events that a call sealed, and the newest seal.

    `anchor` is the newest seal as `NUMBER:HASH`, or None if there is no seal. With a copy of `anchor` outside
    the database, you can prove later that the log up to this seal is unchanged.
    """

    events: int
    anchor: str | None


class AuditVerification(Record, frozen=True):
    """The result of verifying the audit log. The log is intact if `broken` is None.

    `events` is the number of events that were compared with their seals. `dropped` is the number of events
    that were dropped with their months. `unsealed` is the number of events that are in no seal yet. `anchor`
    is the newest seal, as in `AuditSealing`.
    """

    seals: int
    events: int
    dropped: int
    unsealed: int
    anchor: str | None
    broken: AuditBreak | None


class PoolStats(Record, frozen=True):
    """The connection pool of this process, with the field names of psycopg_pool. Waits are in seconds."""

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
    """A replica as this process sees it. `number` is its place in DATABASE_REPLICA_URLS, counted from 1.

    `reason` says why the replica is not used for reads. It is None while the replica is used. `lag_seconds`
    is the lag behind the primary when the replica last answered. It is None before the first answer.
    """

    number: int
    reason: str | None
    lag_seconds: float | None
    pool: PoolStats


class PoolUse(Record, frozen=True):
    """The connections of one process at one moment, or the sum over several processes."""

    pool_max: int
    pool_size: int
    pool_available: int
    pool_in_use: int
    requests_waiting: int
    is_exhausted: bool


class CacheCounts(Record, frozen=True):
    """The counters of one kind of cache key since the process started.

    Fields that begin with `near_` belong to the near cache, the other fields to the shared cache.
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
    """The cache of this process. `state` is enabled, disabled or down.

    `reason` says why Redis is bypassed or the near cache is off, in the words of the server or the system. It
    is None if both work as configured. `topology` is single, sentinel or cluster, or None without a cache.
    `server` is the address of the server in use: HOST:PORT or the path of a socket. It is None until a
    primary is found.
    """

    state: str
    caches: frozendict[str, CacheCounts]
    reason: str | None = None
    topology: str | None = None
    server: str | None = None


class Health(Record, frozen=True):
    """The result of one health check. `status` is healthy, degraded or unhealthy.

    `database` is healthy, degraded or unhealthy. It is degraded if reads work, but the database is read-only
    or accepts no further connection. `redis` is healthy, degraded, unhealthy or disabled. It is degraded if
    Redis answers, but the cache cannot store values in Redis or receives no invalidations. `database_reason`
    and `redis_reason` say why a service is not healthy; they contain no address.
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
    """The size of a table with all its partitions, on disk. `rows` is the server's estimate."""

    table: str
    size_bytes: int
    index_size_bytes: int
    rows: int


class EncryptionKeyUse(Record, frozen=True):
    """An encryption key, and the number of e-mail addresses that are encrypted with it.

    `is_known` is true if the key is in ENCRYPTION_KEYS, and false if only stored addresses name the key.
    `is_current` is true for the key that encrypts new values.
    """

    id: str
    emails: int
    is_known: bool
    is_current: bool


class Reencryption(Record, frozen=True):
    """The result of re-encrypting one batch of users.

    `changed` is the number of changed e-mail addresses. `unreadable` are the ids of users whose address
    cannot be decrypted. The next batch begins after the user `last`, which is None if there is no further
    batch.
    """

    changed: int
    unreadable: tuple[UUID, ...]
    last: UUID | None


class UnusedIndex(Record, frozen=True):
    """An index that no query has used since `unused_since` (None: since the database was created)."""

    table: str
    index: str
    size_bytes: int
    unused_since: datetime | None


class StatementFigures(Record, frozen=True):
    """The calls and the server time of one statement of the service since the statistics were reset."""

    operation: str
    statement: str
    calls: int
    total_seconds: float
    mean_seconds: float
    rows: int
