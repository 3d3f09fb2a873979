"""Makes the ids of simulated rows; a row has the same id in every run.

The ids are UUIDs in the form of version 7. They begin with the milliseconds of an instant, so that rows of
the same time are adjacent in an index. They end with 74 bits of a hash of kind, seed, instant and key. Rows
of real players have random ids from the service.
"""

from collections.abc import Iterable
from datetime import datetime
from enum import IntEnum
from hashlib import blake2b
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from core.simulation.amounts import Integers
from core.simulation.trading_hours import to_standard_time

Hashes = NDArray[np.uint64]

_LOW_HALF: Final = (1 << 64) - 1
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)

_VERSION: Final = 0x7000
_VARIANT: Final = 0x8000000000000000
_RANDOM_A: Final = np.uint64(0xFFF)
_RANDOM_B: Final = np.uint64(0x3FFFFFFFFFFFFFFF)


class Kind(IntEnum):
    """The kind of row that has an id. It is part of the hash, so rows of two kinds have different ids."""

    USER = 1
    PORTFOLIO = 2
    DAILY_RETURNS = 3
    TOTAL_VALUE = 4
    QUESTS_COMPLETED = 5
    MILESTONE = 6
    WEEKLY = 7
    PRICE_MOVE = 8
    TRADE = 9
    DAILY = 10


def mix(values: Hashes) -> Hashes:
    """Hash 64-bit numbers without collisions (the finalizer of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return values ^ (values >> np.uint64(31))


def hash_texts(texts: Iterable[str]) -> Hashes:
    """Return a hash of 64 bits for each text, the same on every machine."""
    digests = (blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.array([int.from_bytes(digest) for digest in digests], np.uint64)


def hash_ids(ids: Iterable[UUID]) -> Hashes:
    """Return the low 64 bits of each id. They are random, also in an id that begins with a time."""
    return np.array([id_.int & _LOW_HALF for id_ in ids], np.uint64)


def make_ids(kind: Kind, *, seed: int, when: datetime, keys: Hashes | Integers) -> list[UUID]:
    """Return one id for each key, such as the number of a player or the hash of a player's id."""
    # Use the standard time of New York for all days: earlier releases closed every day at 21:00 UTC, which is
    # the close in standard time. With the same ids, a replay updates the rows of these releases instead of
    # adding new rows.
    milliseconds = int(to_standard_time(when).timestamp() * 1000)
    base = np.zeros(1, np.uint64)
    for part in (int(kind), seed, milliseconds):
        base = mix(base * _GOLDEN + np.uint64(part))
    high = mix(base ^ mix(keys.astype(np.uint64) * _GOLDEN + _GOLDEN))
    low = mix(high + _GOLDEN)
    top = (milliseconds << 16) | _VERSION
    pairs = zip((high & _RANDOM_A).tolist(), (low & _RANDOM_B).tolist(), strict=True)
    return [UUID(int=((top | a) << 64) | _VARIANT | b) for a, b in pairs]
