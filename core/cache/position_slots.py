"""Where invalidations leave the position of their commit, for readers that load from a replica.

Owns the slots: keys of Redis that each stand for a part of all keys. An invalidation raises the position in
the slots of its keys. A reader that misses gets, with its lease, the highest position of the slots of its key
and of the versions that it depends on, and loads from a replica only what has replayed up to there.

A slot's position is unknown in two cases, and then the primary is asked:

- A slot that is missing (Redis is new, was flushed, has evicted it), or that was stored on a server with
  another origin, is created without a position, and is unknown for `UNKNOWN_MILLISECONDS`.
- An invalidation that has no position makes its slots unknown for the same time. It may be that of an outage,
  or of a process without replicas.

After that time every replica that is read from has each commit of before: a read demands at least the
position that the primary had `core.database.primary_positions.FLOOR_SECONDS` ago. This also covers a writer
that died between its COMMIT and its invalidation: its fence outlasts the COMMIT by longer than that.

Slots are there only while some process has replicas, and no other process reads them. A slot is P, the time
until which it is unknown (13 digits), the position (16 hexadecimal digits), and the origin. Sends nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, TypeVar
from zlib import crc32

T = TypeVar("T")
Keys = TypeVar("Keys", bound=Sequence[str])

# With 100 writes a second and a replica 5 ms behind, a slot has a write that is not replayed for half a
# percent of the time; all slots together take a few kilobytes.
SLOTS: Final = 256
SLOT_FAMILY: Final = "positions/"
ALL_SLOTS: Final = tuple(f"{SLOT_FAMILY}{number:02x}" for number in range(SLOTS))
# Twice the age of the oldest answer of a replica.
UNKNOWN_MILLISECONDS: Final = 3_000
# Every invalidation renews it. A slot that expires is created again, unknown at first.
SLOT_MILLISECONDS: Final = 7_200_000
UNKNOWN: Final = ""


class LoadAfter(Protocol):
    """Loads keys from a server that has a position, or from the primary when it is None."""

    def __call__(self, position: int | None, load: Callable[[Keys], T], keys: Keys, /) -> T:
        """Return what `load` returns."""


def load_anywhere(_: int | None, load: Callable[[Keys], T], keys: Keys, /) -> T:
    """Load from the one server that there is."""
    return load(keys)


def list_slots(keys: Iterable[str]) -> list[str]:
    """Return the slots of keys, each once."""
    return [ALL_SLOTS[number] for number in sorted({crc32(key.encode()) % SLOTS for key in keys})]


def format_position(position: int | None) -> str:
    """Return the form in which a slot has a position; positions sort like their texts."""
    return UNKNOWN if position is None else f"{position:016X}"


# Lua functions that LEASE and RELEASE share. They need `read_ms`.
SLOT_FUNCTIONS: Final = """
local function is_slot(stored)
  return stored and string.byte(stored) == 80 and #stored >= 30
end
local function write_slot(key, unknown_until, position, origin, milliseconds)
  local slot = 'P' .. string.format('%013.0f', unknown_until) .. position .. origin
  return redis.pcall('SET', key, slot, 'PX', milliseconds)
end
"""
