"""Leases and fences: what a reader or a writer holds on keys in Redis.

Owns the arguments and the reply of the script that grants leases. Talks to nobody.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from core.cache.codec import VERSION_MARK, new_token
from core.cache.link import Sent

GRANTED: Final = 1
TAKEN: Final = 0
FENCED: Final = -1

# A reader that dies costs its key this long; a loader that takes longer has its fill refused.
LEASE_MILLISECONDS = 10_000
# Outlives every value filled under it (the longest lives 600 s); losing one is a miss.
VERSION_MILLISECONDS = 3_600_000
NO_TOKEN = b""


class Lease(NamedTuple):
    """The answer to a reader that missed: GRANTED, TAKEN or FENCED per key.

    Values are stored under its versions and its origin.
    """

    token: bytes
    states: dict[str, int]
    version_keys: tuple[str, ...]
    versions: tuple[bytes, ...]
    origin: bytes


class Fence(NamedTuple):
    """What keeps readers from filling keys that are about to change; not `sent` once it is there."""

    token: bytes = NO_TOKEN
    sent: Sent | None = None


NO_FENCE = Fence()


def build_request(token: bytes, keys: Sequence[str], versions: Sequence[str], head: bytes) -> list[Any]:
    """Return the arguments that ask for a lease on `keys`; current values begin with `head` and the versions.

    Each version key gets a random value of its own, for the case that the script creates it. Values
    are stored under versions, so a version that came back would bring back the values from before
    a write (the ABA problem); nobody can choose one here, and a lease token has another mark.
    """
    fresh = [new_token(VERSION_MARK) for _ in versions]
    return [token, LEASE_MILLISECONDS, VERSION_MILLISECONDS, len(keys), head, *fresh]


def read_lease(
    token: bytes, keys: Sequence[str], versions: Sequence[str], reply: Sequence[Any], *, origin: bytes
) -> Lease:
    """Return the lease that Redis answered with: the state of each key, then each version."""
    states = dict(zip(keys, reply, strict=False))
    return Lease(token, states, tuple(versions), tuple(reply[len(keys) :]), origin)
