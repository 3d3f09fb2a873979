"""What a reader or a writer holds on keys in Redis: a lease, a fence.

Owns how a lease is asked for and how the answer reads. Talks to nobody.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from core.cache.link import Sent

GRANTED: Final = 1
TAKEN: Final = 0
FENCED: Final = -1

# A reader that dies costs its key this long; a loader that takes longer has its fill refused.
LEASE_MILLISECONDS = 10_000
# Outlives every value filled under it (the longest lives 600 s); losing one is a miss.
VERSION_MILLISECONDS = 3_600_000
# How much of a value tells it from another one: its mark, its shape and its versions.
SEEN_BYTES = 64
NO_TOKEN = b""


class Lease(NamedTuple):
    """The answer to a reader that missed: GRANTED, TAKEN or FENCED per key, and the versions."""

    token: bytes
    states: dict[str, int]
    version_keys: tuple[str, ...]
    versions: tuple[bytes, ...]


class Fence(NamedTuple):
    """What keeps readers from filling keys that are about to change; not `sent` once it is there."""

    token: bytes = NO_TOKEN
    sent: Sent | None = None


NO_FENCE = Fence()


def spell_request(token: bytes, overwrite: Sequence[bytes]) -> list[Any]:
    """Return the arguments that ask for a lease; `overwrite` has what may be replaced per key."""
    seen = [value[:SEEN_BYTES] for value in overwrite]
    return [token, LEASE_MILLISECONDS, VERSION_MILLISECONDS, len(seen), *seen]


def read_lease(token: bytes, keys: Sequence[str], versions: Sequence[str], reply: Sequence[Any]) -> Lease:
    """Return the lease that Redis answered with: the state of each key, then each version."""
    states = dict(zip(keys, reply, strict=False))
    return Lease(token, states, tuple(versions), tuple(reply[len(keys) :]))
