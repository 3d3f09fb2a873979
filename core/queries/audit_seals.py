"""Statements on `audit_seals`: the chain of hashes over the audit log.

A seal has a manifest with one entry for each of its events, in the order of time and id. An entry is the 16
bytes of the event's id and the SHA-256 digest of the event. A seal without events records that a month was
dropped. The hash of a seal covers its columns, its manifest and the hash of the previous seal.

A database function writes the seals. The application may call this function but cannot replace it.
Verification does not trust the function: the statements here compute every digest and hash again.
"""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from core.database import Database
from core.queries.rows import fetch_all, fetch_number, find_one

# Maximum time that `maintain_months` waits for a lock.
LOCK_TIMEOUT_MS = 5_000
ENTRY_BYTES, ID_BYTES = 48, 16

# DIGEST and HASH are the same expressions as in migration 0021. Tests seal events with the expressions of the
# migration and verify the seals with these.
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
# Selects the events from the first to the last event of a manifest, including events that the manifest does
# not list.
ENTRIES = f"""
    SELECT uuid_send(id) || {DIGEST} FROM audit_events
    WHERE tableoid = to_regclass(%(partition)s)
      AND (created_at, id) >= (%(first_at)s::timestamptz, %(first_id)s::uuid)
      AND (created_at, id) <= (%(last_at)s::timestamptz, %(last_id)s::uuid)"""
EXISTS = "SELECT to_regclass(%s) IS NOT NULL"
COUNT = "SELECT tableoid::regclass::text, count(*) FROM audit_events GROUP BY tableoid"
# Finds the first event of a partition that should be in a seal but is in none. When a seal is written, every
# event with a transaction id below `up_to` of the seal is in this seal or an earlier one. In a restored dump,
# transaction ids start anew, so `up_to` of a seal of another server is not used: the statement finds nothing
# until this server has written a seal.
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
    """A row of `audit_seals`. Hashes are hexadecimal, and the `previous_hash` of the first seal is empty."""

    number: int
    partition: str
    first_at: datetime
    last_at: datetime
    events: int
    manifest: memoryview
    previous_hash: str
    hash: str
    is_intact: bool
    """True if `hash` is the hash of the stored columns and `manifest` has an entry for each event."""

    def list_entries(self) -> list[bytes]:
        """Return the entries of the manifest; each has 48 bytes, the id and the digest of an event."""
        places = range(0, len(self.manifest), ENTRY_BYTES)
        return [bytes(self.manifest[place : place + ENTRY_BYTES]) for place in places]


def read_id(entry: bytes) -> UUID:
    """Return the id of the event from an entry of a manifest."""
    return UUID(bytes=entry[:ID_BYTES])


def seal_events(database: Database) -> int:
    """Seal every event that no seal contains yet, and return the number of these events."""
    return fetch_number(database, SEAL)


def maintain_months(
    database: Database, months_ahead: int, keep_months: int | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Create the partitions of coming months and drop the partitions of old months.

    Returns the names of the created partitions and of the dropped ones. `keep_months` None drops no
    partition.
    """
    database.execute_sql("SELECT set_config('lock_timeout', %s, true)", (str(LOCK_TIMEOUT_MS),))
    created, dropped = database.execute_sql(MAINTAIN, (months_ahead, keep_months)).fetchone()
    return tuple(created), tuple(dropped)


def find_newest(database: Database) -> tuple[int, str] | None:
    """Return the number and the hash of the newest seal, or None if there is no seal."""
    return find_one(database, lambda row: (int(row[0]), str(row[1])), NEWEST)


def list_seals(database: Database, after: int, limit: int) -> tuple[Seal, ...]:
    """Return up to `limit` seals with a number above `after`, in the order of their numbers."""
    return fetch_all(database, lambda row: Seal(*row), LIST, (after, limit))


def read_entries(database: Database, seal: Seal) -> set[bytes] | None:
    """Return a manifest entry (id and digest) for each event that is stored in the range of a seal.

    The range is from the first to the last event of the seal, both included. Returns None in three cases: the
    partition of these events does not exist, the seal has no events because its month was dropped, or the
    seal is not intact and its columns may have any value.
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
    # Check for the partition after the read. If it was checked before, a partition that is dropped in between
    # would look like a partition whose events were removed.
    if found or database.execute_sql(EXISTS, (seal.partition,)).fetchone()[0]:
        return found
    return None


def count_events(database: Database) -> dict[str, int]:
    """Return the number of events of each partition of the audit log, by the name of the partition."""
    return dict(database.execute_sql(COUNT).fetchall())


def find_added(database: Database, partition: str, newest: int) -> UUID | None:
    """Return the id of the first event in a partition that should be in a seal but is in none, or None.

    `newest` is the number of the newest seal. The transaction id of the found event is below the column
    `up_to` of this seal, but neither this seal nor an earlier one lists the event.
    """
    parameters = {"partition": partition, "newest": newest}
    return find_one(database, lambda row: UUID(str(row[0])), FIND_ADDED, parameters)
