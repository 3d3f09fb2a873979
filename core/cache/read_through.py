"""Reads through Redis: what it has, else the loader's answer, stored under a lease.

Owns the steps of a read that the near tier could not answer: look up, lease, load, fill,
or wait for whoever fills. A failure of Redis costs the loader a call, never the caller an
error.
"""

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from core.cache.claims import GRANTED, TAKEN, Lease
from core.cache.codec import ABSENT, Absent, Codec, Unstorable, is_current, is_lease, is_version
from core.cache.guard import CacheDown
from core.cache.keys import CacheKind
from core.cache.near import NearTier
from core.cache.shared import SharedTier
from core.cache.tally import Tally
from core.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")
Load = Callable[[Sequence[str]], Mapping[str, T]]

# Spreads expiry, so that what was filled together is not loaded together again.
TTL_JITTER = 0.1
# A row that is missing may be written past the service, so it is not taken for missing for long.
ABSENT_MILLISECONDS = 5_000
# Whoever finds another loading waits as long as most loads take, then loads for itself.
WAIT_SECONDS = 2.0
WAIT_FIRST_SECONDS = 0.001
WAIT_LONGEST_SECONDS = 0.01


@dataclass(frozen=True)
class Read(Generic[T]):
    """What a read of some keys needs to know."""

    kind: CacheKind
    codec: Codec[T]
    load: Load[T]
    depends_on: tuple[str, ...]


class ReadThrough:
    """The reads of one process that reach Redis; thread safe."""

    def __init__(
        self,
        shared: SharedTier | None,
        near: NearTier,
        tallies: Mapping[str, Tally],
        metrics: Metrics,
        *,
        on_hits: Callable[[Read[Any], Mapping[str, Any]], None] = lambda _, __: None,
    ) -> None:
        self._shared = shared
        self._near = near
        self._tallies = tallies
        self._metrics = metrics
        self._on_hits = on_hits
        # kinds whose last look-up found nothing: the next one asks for leases in the same round
        # trip, which saves a miss as much as it costs a hit
        self._missing: set[str] = set()
        # leases that were waited for in vain: whoever has one may have died with it
        self._vain: dict[str, bytes | None] = {}

    def read(self, read: Read[T], keys: Sequence[str]) -> dict[str, T]:
        """Ask Redis, then the loader; rows that do not exist are left out."""
        tally = self._tallies[read.kind.name]
        if self._shared is None:
            tally.count_bypasses("disabled", len(keys))
            return dict(self._load(read, keys))
        try:
            found, left, lease = self._look_up_or_lease(self._shared, read, keys)
        except CacheDown as down:
            tally.count_bypasses(down.reason, len(keys))
            return dict(self._load(read, keys))
        tally.count_reads(hits=len(found), misses=len(left))
        self._on_hits(read, found)
        if left:
            filled = self._fill(self._shared, read, left, lease)
            found.update(filled)
        return {key: value for key, value in found.items() if not isinstance(value, Absent)}

    def peek(self, read: Read[T], key: str) -> T | Absent | None:
        """Return what Redis has under a key; loads, admits and counts nothing."""
        if self._shared is None:
            return None
        try:
            stored = self._shared.get_many([key, *read.depends_on])
        except CacheDown:
            return None
        return _decode(read.codec, [key], stored, self._shared.origin)[0].get(key)

    def _look_up_or_lease(
        self, shared: SharedTier, read: Read[T], keys: Sequence[str]
    ) -> tuple[dict[str, T | Absent], dict[str, bytes | None], Lease | None]:
        """Look up; where the kind's last keys were missing, ask for leases in the same round trip."""
        name = read.kind.name
        lease = None
        if name in self._missing:
            found, left, lease = self._look_up_and_lease(shared, read, keys)
        else:
            found, left = self._look_up(shared, read, keys, shared.get_many)
        if found:
            self._missing.discard(name)
        else:
            self._missing.add(name)
        return found, left, lease

    def _look_up_and_lease(
        self, shared: SharedTier, read: Read[T], keys: Sequence[str]
    ) -> tuple[dict[str, T | Absent], dict[str, bytes | None], Lease]:
        leases: list[Lease] = []

        def fetch(_: Sequence[str]) -> list[Any]:
            stored, lease = shared.get_and_lease(keys, read.depends_on, read.codec.shape)
            leases.append(lease)
            return stored

        try:
            found, left = self._look_up(shared, read, keys, fetch)
        except CacheDown as down:
            if down.reason == "down":
                # it may have been granted all the same, and others would wait for it
                shared.give_up(keys)
            raise
        [lease] = leases
        # what was there and went before the lease was asked for: others wait for it now
        for key in [key for key in found if lease.states[key] == GRANTED]:
            del found[key]
            left[key] = None
        return found, left, lease

    def _look_up(
        self,
        shared: SharedTier,
        read: Read[T],
        keys: Sequence[str],
        fetch: Callable[[Sequence[str]], list[Any]],
    ) -> tuple[dict[str, T | Absent], dict[str, bytes | None]]:
        """Return the values that Redis has, and what lies under the other keys."""
        asked = [*keys, *read.depends_on]
        ticket = self._near.begin_read()
        stored = fetch(asked)
        found, damaged = _decode(read.codec, keys, stored, shared.origin)
        self._near.end_read(ticket, found, read.depends_on)
        if damaged:
            # looks current, so nobody would get a lease for it
            shared.give_up(damaged)
        left = {key: value for key, value in zip(keys, stored, strict=False) if key not in found}
        return found, left

    def _fill(
        self, shared: SharedTier, read: Read[T], missing: Mapping[str, bytes | None], lease: Lease | None
    ) -> Mapping[str, T | Absent]:
        """Load under leases and store what they still cover; wait for what others load."""
        keys = list(missing)
        try:
            lease = lease or shared.lease(keys, read.depends_on, read.codec.shape)
        except CacheDown as down:
            if down.reason == "down":
                # it may have been granted all the same, and others would wait for it
                shared.give_up(keys)
            return self._load(read, keys)
        ours = [key for key in keys if lease.states[key] != TAKEN]
        found: dict[str, T | Absent] = {}
        if ours:
            # before waiting for anybody: who waits for these keys must not wait for others' too
            loaded = self._load_leased(shared, read, ours, lease)
            found.update(loaded)
        theirs = [key for key in keys if lease.states[key] == TAKEN]
        if theirs:
            awaited = self._wait_for(shared, read, theirs)
            found.update(awaited)
            late = [key for key in theirs if key not in found]
            if late:
                unshared = self._load(read, late)
                found.update(unshared)
        return found

    def _load_leased(
        self, shared: SharedTier, read: Read[T], keys: Sequence[str], lease: Lease
    ) -> Mapping[str, T]:
        granted = [key for key in keys if lease.states[key] == GRANTED]
        try:
            loaded = self._load(read, keys)
        except BaseException:
            self._store(shared, lease, [(key, 0, b"") for key in granted])
            raise
        head = read.codec.make_head(lease.origin, lease.versions)
        values = [(key, *_encode(read, loaded.get(key, ABSENT), head)) for key in granted]
        unstorable = sum(1 for _, milliseconds, _ in values if not milliseconds)
        count = self._tallies[read.kind.name].count_refused
        self._store(shared, lease, values, lambda refused: count(max(0, refused - unstorable)))
        return loaded

    @staticmethod
    def _store(
        shared: SharedTier,
        lease: Lease,
        values: Sequence[tuple[str, int, bytes]],
        on_refused: Callable[[int], None] = lambda _: None,
    ) -> None:
        if not values:
            return
        try:
            shared.fill(lease, values, on_refused)
        except CacheDown:
            shared.give_up([key for key, _, _ in values])

    def _wait_for(self, shared: SharedTier, read: Read[T], keys: Sequence[str]) -> dict[str, T | Absent]:
        """Return what others store under these keys within a while."""
        deadline = time.monotonic() + WAIT_SECONDS
        pause = WAIT_FIRST_SECONDS
        found: dict[str, T | Absent] = {}
        left = list(keys)
        while left:
            try:
                stored, rest = self._look_up(shared, read, left, shared.get_many)
            except CacheDown:
                break
            found.update(stored)
            # what is neither there nor being loaded was refused or given up: no use to wait
            left = [key for key, value in rest.items() if is_lease(value) and self._vain.get(key) != value]
            if left and time.monotonic() + pause >= deadline:
                # so that not every reader waits as long until it expires
                self._vain = {key: rest[key] for key in left}
                break
            if left:
                time.sleep(pause)
                pause = min(pause * 2, WAIT_LONGEST_SECONDS)
        return found

    def _load(self, read: Read[T], keys: Sequence[str]) -> Mapping[str, T]:
        started = time.perf_counter()
        try:
            return read.load(keys)
        finally:
            self._metrics.observe_cache_load(read.kind.name, time.perf_counter() - started)


def _decode(
    codec: Codec[T], keys: Sequence[str], stored: Sequence[bytes | None], origin: bytes
) -> tuple[dict[str, T | Absent], list[str]]:
    """Return the values that are current, and the keys of those that are but cannot be read."""
    versions = [each for each in stored[len(keys) :] if each is not None and is_version(each)]
    found: dict[str, T | Absent] = {}
    damaged: list[str] = []
    if len(versions) < len(stored) - len(keys):
        # a version is gone, fenced or foreign: nothing that depends on it may be used
        return found, damaged
    head = codec.make_head(origin, versions)
    for key, value in zip(keys, stored, strict=False):
        if value is None:
            continue
        decoded = codec.decode(value, head)
        if decoded is not None:
            found[key] = decoded
        elif is_current(value, head):
            damaged.append(key)
    return found, damaged


def _encode(read: Read[T], value: T | Absent, head: bytes) -> tuple[int, bytes]:
    """Return how long a value may be stored, and its stored form; 0 for one that has none."""
    milliseconds = ABSENT_MILLISECONDS if value is ABSENT else _ttl_milliseconds(read.kind)
    try:
        return milliseconds, read.codec.encode(value, head)
    except Unstorable as error:
        logger.info("a value of %s cannot be cached: %s", read.kind.name, error)
        return 0, b""


def _ttl_milliseconds(kind: CacheKind) -> int:
    # downwards only: a value never lives longer than its kind says
    return round(kind.ttl_seconds * 1000 * random.uniform(1 - TTL_JITTER, 1))  # noqa: S311  # spreads load, guards nothing
