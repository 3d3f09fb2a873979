"""Statements on `audit_seals`: the chain of hashes over the audit log.

A seal has a manifest: for each of its events, in order of time and id, the 16 bytes of the id and a SHA-256
digest of the event; a seal without events says that its month was dropped. The hash of a seal covers its
columns, its manifest and the hash of the seal before. A database function writes the seals; the application
may call it but not replace it. Verifying computes every digest and hash again with the statements here, and
trusts no function of the database.
"""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from core.database import Database
from core.queries.rows import fetch_all, find_one

# Longest wait of `maintain_months` for a lock.
LOCK_TIMEOUT_MS = 5_000
ENTRY_BYTES, ID_BYTES = 48, 16

# The same expressions as in migration 0021: tests seal with the migration's and verify with these.
DIGEST = """sha256(convert_to(jsonb_build_array(
        id, EXTRACT(epoch FROM created_at), actor, action, target, row_key, before, after, outcome, detail,
        request_id, start_id, transaction_id)::text, 'UTF8'))"""
HASH = """sha256(convert_to(jsonb_build_array(
        number, EXTRACT(epoch FROM sealed_at), partition, EXTRACT(epoch FROM first_at),
        EXTRACT(epoch FROM last_at), events, up_to, system)::text, 'UTF8') || previous_hash || manifest)"""

SEAL = "SELECT audit_seal()"
MAINTAIN = "SELECT created, dropped FROM audit_maintain(%s, %s)"
NEWEST = "SELECT number, encode(hash, 'hex') FROM audit_seals ORDER BY number DESC LIMIT 1"
LIST = f"""
    SELECT number, partition, first_at, last_at, events, manifest, encode(previous_hash, 'hex'),
           encode(hash, 'hex'), hash = {HASH} AND length(manifest) = events * {ENTRY_BYTES}
    FROM audit_seals WHERE number > %s ORDER BY number LIMIT %s"""
# From the first to the last event of a manifest, with any other events between them.
ENTRIES = f"""
    SELECT uuid_send(id) || {DIGEST} FROM audit_events
    WHERE tableoid = to_regclass(%(partition)s)
      AND (created_at, id) >= (%(first_at)s::timestamptz, %(first_id)s::uuid)
      AND (created_at, id) <= (%(last_at)s::timestamptz, %(last_id)s::uuid)"""
EXISTS = "SELECT to_regclass(%s) IS NOT NULL"
COUNT = "SELECT tableoid::regclass::text, count(*) FROM audit_events GROUP BY tableoid"
# A restored dump has new transaction numbers: there an added event is found only after the next seal.
FIND_ADDED = f"""
    WITH newest AS (
        SELECT up_to FROM audit_seals WHERE number = %(newest)s AND system = CASE
            WHEN has_function_privilege('pg_control_system()', 'EXECUTE')
            THEN (SELECT system_identifier FROM pg_control_system()) ELSE 0 END
    ), listed AS (
        SELECT substring(s.manifest FROM {ENTRY_BYTES} * n + 1 FOR {ID_BYTES}) AS id
        FROM audit_seals s, generate_series(0, s.events - 1) n
        WHERE s.number <= %(newest)s AND s.partition = %(partition)s
    )
    SELECT e.id FROM audit_events e
    WHERE e.tableoid = to_regclass(%(partition)s) AND e.transaction_id < (SELECT up_to FROM newest)
      AND NOT EXISTS (SELECT FROM listed WHERE listed.id = uuid_send(e.id))
    ORDER BY e.created_at, e.id LIMIT 1"""


class Seal(NamedTuple):
    """One link of the chain; hashes are in hexadecimal digits, the first `previous_hash` is empty."""

    number: int
    partition: str
    first_at: datetime
    last_at: datetime
    events: int
    manifest: memoryview
    previous_hash: str
    hash: str
    is_intact: bool
    """Whether the stored hash is the hash of the seal's columns."""

    def list_entries(self) -> list[bytes]:
        """Return the id and the digest of each event."""
        places = range(0, len(self.manifest), ENTRY_BYTES)
        return [bytes(self.manifest[place : place + ENTRY_BYTES]) for place in places]


def read_id(entry: bytes) -> UUID:
    """Return the event's id in an entry of a manifest."""
    return UUID(bytes=entry[:ID_BYTES])


def seal_events(database: Database) -> int:
    """Seal every event that is in no seal yet; return how many there were."""
    return int(database.execute_sql(SEAL).fetchone()[0])


def maintain_months(
    database: Database, months_ahead: int, keep_months: int | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Create the partitions of coming months and drop old ones; return the names of both."""
    database.execute_sql("SELECT set_config('lock_timeout', %s, true)", (str(LOCK_TIMEOUT_MS),))
    created, dropped = database.execute_sql(MAINTAIN, (months_ahead, keep_months)).fetchone()
    return tuple(created), tuple(dropped)


def find_newest(database: Database) -> tuple[int, str] | None:
    """Return number and hash of the newest seal, or None."""
    return find_one(database, lambda row: (int(row[0]), str(row[1])), NEWEST)


def list_seals(database: Database, after: int, limit: int) -> tuple[Seal, ...]:
    """Return the seals that follow a number."""
    return fetch_all(database, lambda row: Seal(*row), LIST, (after, limit))


def read_entries(database: Database, seal: Seal) -> set[bytes] | None:
    """Return the current id and digest of every event between the first and the last event of a seal.

    None when the partition of their month does not exist, when the seal says that it was dropped, or when the
    seal was changed: its columns may then have any value.
    """
    entries = seal.list_entries() if seal.is_intact else []
    if not entries:
        return None
    parameters = {
        "partition": seal.partition,
        "first_at": seal.first_at,
        "first_id": read_id(entries[0]),
        "last_at": seal.last_at,
        "last_id": read_id(entries[-1]),
    }
    found = set(fetch_all(database, lambda row: bytes(row[0]), ENTRIES, parameters))
    # checked after the read, because the month may be dropped at any moment
    if found or database.execute_sql(EXISTS, (seal.partition,)).fetchone()[0]:
        return found
    return None


def count_events(database: Database) -> dict[str, int]:
    """Return how many events each partition has."""
    return dict(database.execute_sql(COUNT).fetchall())


def find_added(database: Database, partition: str, newest: int) -> UUID | None:
    """Return the first event that is in no seal up to `newest`, although they cover its transaction."""
    parameters = {"partition": partition, "newest": newest}
    return find_one(database, lambda row: UUID(str(row[0])), FIND_ADDED, parameters)
