"""Slots in Redis that keep the LSN of recent commits, for readers that load from a replica.

Owns the slots. A slot is a key in Redis. Each cache key belongs to one slot, by its hash. An invalidation
raises the LSN in the slots of its keys. A reader that misses a key gets a lease, and with it the highest
LSN in the slots of the key and its version keys. It loads from a replica only if the replica has
replayed this LSN.

In two cases the LSN of a slot is unknown. Then the value is loaded from the primary:

- The slot is missing, because Redis is new, was flushed or has evicted it; or another run of the server
  stored it (another origin, see `core.cache.origin`). The slot is created, and its LSN is unknown for
  `UNKNOWN_MILLISECONDS`.
- An invalidation came without an LSN: from the outbox after an outage, or from a process without replicas.
  The LSNs of its slots are then unknown for the same time.

After that time, every replica that serves reads has replayed all commits from before the LSN became unknown:
a read requires at least the LSN that the primary had `core.database.replication_lag.MAX_LAG_SECONDS` ago.
This is also enough for a writer that died between its COMMIT and its invalidation, because its fence outlasts
the COMMIT by more than `MAX_LAG_SECONDS`.

Slots exist only while some process has replicas, and only such processes read them. The stored form of a slot
is P, the time until which the LSN is unknown (13 digits), the LSN (16 hexadecimal digits), and the origin.
Sends no commands itself.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, TypeVar
from zlib import crc32

T = TypeVar("T")
Keys = TypeVar("Keys", bound=Sequence[str])

# Number of LSN slots. With 100 writes a second and a replica 5 ms behind, only 0.5 % of the reads find a slot
# with a commit that the replica has not replayed. All slots together take a few kilobytes.
SLOTS: Final = 256
SLOT_FAMILY: Final = "positions/"
ALL_SLOTS: Final = tuple(f"{SLOT_FAMILY}{number:02x}" for number in range(SLOTS))
# How long the LSN of a slot stays unknown: twice the maximum age of a replica's data (`MAX_LAG_SECONDS`).
UNKNOWN_MILLISECONDS: Final = 3_000
# TTL of an LSN slot. Every invalidation of its keys renews the TTL. An expired slot is created again without
# an LSN.
SLOT_MILLISECONDS: Final = 7_200_000
UNKNOWN: Final = ""


class LoadAfter(Protocol):
    """Loads values from a server that has replayed the WAL up to `lsn`, or from the primary if it is None."""

    def __call__(self, lsn: int | None, load: Callable[[Keys], T], keys: Keys, /) -> T:
        """Call `load(keys)` and return its result."""


def load_anywhere(_: int | None, load: Callable[[Keys], T], keys: Keys, /) -> T:
    """Call `load(keys)`, for any LSN. This is the `LoadAfter` of a process without replicas."""
    return load(keys)


def list_slots(keys: Iterable[str]) -> list[str]:
    """Return the names of the LSN slots of these cache keys, without duplicates."""
    return [ALL_SLOTS[number] for number in sorted({crc32(key.encode()) % SLOTS for key in keys})]


def format_lsn(lsn: int | None) -> str:
    """Return an LSN in the form that a slot stores. The strings sort in the order of the LSNs."""
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
