"""Slots in Redis that keep the LSN of recent commits, for readers that load from a replica.

Owns the slots. A slot is a key in Redis. Each cache key belongs to one slot, by its hash. An invalidation
raises the LSN in the slots of its keys. A reader that misses a key gets a lease, and with it the highest
LSN in the slots of the key and its version keys. It loads from a replica only if the replica has
replayed this LSN.

In two cases the LSN of a slot is unknown. Then the value is loaded from the primary:

- The slot is missing, because Redis is new, was flushed or has evicted it; or it was stored on a server with
  another origin. It is created without an LSN, and is unknown for `UNKNOWN_MILLISECONDS`.
- An invalidation came without an LSN: from the outbox after an outage, or from a process without
  replicas. It makes its slots unknown for the same time.

After that time, every replica that serves reads has replayed all commits from before the slot became
unknown: a read requires at least the LSN that the primary had
`core.database.replication_lag.MAX_LAG_SECONDS` ago. This is also enough for a writer that died between its
COMMIT and its invalidation, because its fence outlasts the COMMIT by more than `MAX_LAG_SECONDS`.

Slots exist only while some process has replicas, and only such processes read them. The stored form of a slot
is P, the time until which it is unknown (13 digits), the LSN (16 hexadecimal digits), and the origin.
Sends no commands itself.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, TypeVar
from zlib import crc32

T = TypeVar("T")
Keys = TypeVar("Keys", bound=Sequence[str])

# Number of slots. With 100 writes a second and a replica 5 ms behind, only 0.5 % of the reads find a slot
# with a commit that the replica has not replayed. All slots together take a few kilobytes.
SLOTS: Final = 256
SLOT_FAMILY: Final = "positions/"
ALL_SLOTS: Final = tuple(f"{SLOT_FAMILY}{number:02x}" for number in range(SLOTS))
# How long a slot stays unknown: twice the maximum age of a replica's data (`MAX_LAG_SECONDS`).
UNKNOWN_MILLISECONDS: Final = 3_000
# TTL of a slot. Every invalidation of its keys renews it. After it has expired, the slot is created as
# unknown.
SLOT_MILLISECONDS: Final = 7_200_000
UNKNOWN: Final = ""


class LoadAfter(Protocol):
    """Loads keys from a server that has replayed the WAL up to `lsn`, or from the primary if None."""

    def __call__(self, lsn: int | None, load: Callable[[Keys], T], keys: Keys, /) -> T:
        """Call `load(keys)` and return its result."""


def load_anywhere(_: int | None, load: Callable[[Keys], T], keys: Keys, /) -> T:
    """Call `load(keys)`, for any LSN. This is the `LoadAfter` of a process without replicas."""
    return load(keys)


def list_slots(keys: Iterable[str]) -> list[str]:
    """Return the names of the slots of these keys, without duplicates."""
    return [ALL_SLOTS[number] for number in sorted({crc32(key.encode()) % SLOTS for key in keys})]


def format_lsn(lsn: int | None) -> str:
    """Return an LSN as the text that a slot stores. Texts sort in the order of their LSNs."""
    return UNKNOWN if lsn is None else f"{lsn:016X}"


# Lua functions that LEASE and RELEASE share.
SLOT_FUNCTIONS: Final = """
local function is_slot(stored)
  return stored and string.byte(stored) == 80 and #stored >= 30
end
local function write_slot(key, unknown_until, lsn, origin, milliseconds)
  local slot = 'P' .. string.format('%013.0f', unknown_until) .. lsn .. origin
  return redis.pcall('SET', key, slot, 'PX', milliseconds)
end
"""
