"""Slots in Redis that keep the LSN (position) of recent commits, for readers that load from a replica.

Owns the slots: each slot is a key in Redis and stands for a part of all cache keys (by hash). An invalidation
raises the position in the slots of its keys. A reader that misses gets with its lease the highest position in
the slots of its key and version keys, and loads from a replica only if it has replayed this position.

A slot's position is unknown in two cases, and then the value is loaded from the primary:

- A slot that is missing (Redis is new, was flushed or has evicted the slot), or that was stored on a server
  with another origin, is created without a position, and is unknown for `UNKNOWN_MILLISECONDS`.
- An invalidation without a position makes its slots unknown for the same time. It may come from the outbox
  after an outage, or from a process without replicas.

After that time every replica that serves reads has replayed each commit from before: a read requires at least
the position that the primary had `core.database.primary_positions.FLOOR_SECONDS` ago. This also covers a
writer that died between its COMMIT and its invalidation, because its fence outlasts the COMMIT by more than
`FLOOR_SECONDS`.

Slots exist only while some process has replicas, and only such processes read them. A slot is P, the time
until which it is unknown (13 digits), the position (16 hexadecimal digits), and the origin. Sends no commands
itself.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, TypeVar
from zlib import crc32

T = TypeVar("T")
Keys = TypeVar("Keys", bound=Sequence[str])

# With 100 writes a second and a replica 5 ms behind, a slot has a write that the replica has not replayed
# only 0.5 % of the time; all slots together take a few kilobytes.
SLOTS: Final = 256
SLOT_FAMILY: Final = "positions/"
ALL_SLOTS: Final = tuple(f"{SLOT_FAMILY}{number:02x}" for number in range(SLOTS))
# Twice the maximum age of a replica's answer (`FLOOR_SECONDS`).
UNKNOWN_MILLISECONDS: Final = 3_000
# TTL of a slot; every invalidation of its keys renews it. A slot that expired is created again as unknown.
SLOT_MILLISECONDS: Final = 7_200_000
UNKNOWN: Final = ""


class LoadAfter(Protocol):
    """Loads keys from a server that has replayed a position, or from the primary if the position is None."""

    def __call__(self, position: int | None, load: Callable[[Keys], T], keys: Keys, /) -> T:
        """Return what `load` returns."""


def load_anywhere(_: int | None, load: Callable[[Keys], T], keys: Keys, /) -> T:
    """Return what `load` returns, whatever the position: for a process without replicas."""
    return load(keys)


def list_slots(keys: Iterable[str]) -> list[str]:
    """Return the slots of these keys, without duplicates."""
    return [ALL_SLOTS[number] for number in sorted({crc32(key.encode()) % SLOTS for key in keys})]


def format_position(position: int | None) -> str:
    """Return a position as the text that a slot stores; the texts sort in the order of the positions."""
    return UNKNOWN if position is None else f"{position:016X}"


# Lua functions that LEASE and RELEASE share.
SLOT_FUNCTIONS: Final = """
local function is_slot(stored)
  return stored and string.byte(stored) == 80 and #stored >= 30
end
local function write_slot(key, unknown_until, position, origin, milliseconds)
  local slot = 'P' .. string.format('%013.0f', unknown_until) .. position .. origin
  return redis.pcall('SET', key, slot, 'PX', milliseconds)
end
"""
