"""Reads through Redis: returns the values in Redis, loads the other ones and stores them under a lease.

Owns the steps of a read of one or many keys that are not in the near cache:

1. look up: ask Redis for the values. If a miss is likely, also ask for leases, in the same round trip;
2. lease: ask for leases on the keys that are missing;
3. load the keys whose lease was granted, and the keys that a writer has fenced;
4. fill: store the loaded values under the leases;
5. wait for the keys that another process is loading. Load those that it does not store in time.

If Redis fails, the loader is called. The caller never gets an error of Redis.
"""

import logging
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from core.backoff import Backoff
from core.cache.codec import ABSENT, Absent, Unstorable, is_lease
from core.cache.counters import CacheCounters, StaleReadSampler
from core.cache.guard import CacheDown
from core.cache.kinds import ABSENT_MILLISECONDS, TTL_JITTER, Read
from core.cache.leases_and_fences import FENCED, GRANTED, TAKEN, Lease
from core.cache.lsn_slots import LoadAfter
from core.cache.near import NearCache
from core.cache.shared import SharedCache
from core.failover import KnownTimeline
from core.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A reader waits this long for a key that another process is loading, and then loads the key itself. Most
# loads take less.
WAIT_SECONDS = 2.0
# The first and the longest pause between two look-ups while a reader waits.
WAIT_FIRST_SECONDS = 0.001
WAIT_MAX_SECONDS = 0.01


class _LookUp(NamedTuple):
    """A reply of Redis: `found` has the current values, `missing` has the stored bytes of all other keys."""

    found: dict[str, Any]
    missing: dict[str, bytes | None]
    lease: Lease | None = None


class ReadThrough:
    """The reads of one process that reach Redis; thread safe."""

    def __init__(
        self,
        shared: SharedCache | None,
        near: NearCache,
        *,
        counters: Mapping[str, CacheCounters],
        sampler: StaleReadSampler,
        metrics: Metrics,
        load_after: LoadAfter,
        timeline: KnownTimeline,
    ) -> None:
        self._timeline = timeline
        self._shared = shared
        self._near = near
        self._counters = counters
        self._sampler = sampler
        self._metrics = metrics
        self._load_after = load_after
        # The kinds of cache keys, such as `user`, whose last look-up found no value. The next look-up of such
        # keys asks for leases in the same round trip. On a miss this saves one round trip. On a hit it costs
        # Redis one script.
        self._missed: set[str] = set()
        # leases of other readers, by key, under which no value was stored within WAIT_SECONDS: these readers
        # may have died
        self._expired: dict[str, bytes | None] = {}

    def read(self, read: Read[T], keys: Sequence[str]) -> dict[str, T]:
        """Return values by key, from Redis or from the loader. Rows that do not exist are left out."""
        counters = self._counters[read.cached.name]
        if self._shared is None:
            counters.count_bypasses("disabled", len(keys))
            return dict(self._load(read, keys))
        # Connect to the database before Redis is read, because the values in Redis may belong to another
        # timeline of the database.
        database_error = self._timeline.try_to_learn()
        # ask for no lease before the database timeline is known: a stored value names its timeline
        with_lease = read.cached.name in self._missed and self._timeline.connected is not None
        try:
            found, missing, lease = self._look_up(self._shared, read, keys, with_lease=with_lease)
        except CacheDown as down:
            counters.count_bypasses(down.reason, len(keys))
            return dict(self._load(read, keys))
        if found:
            self._missed.discard(read.cached.name)
        else:
            self._missed.add(read.cached.name)
        counters.count_reads(hits=len(found), misses=len(missing))
        self._sampler.sample("shared", lambda: read, found)
        if missing:
            if database_error is not None:
                # the database does not answer, so the loader would fail as well
                raise database_error
            found.update(self._load_missing(self._shared, read, list(missing), lease))
        return {key: value for key, value in found.items() if not isinstance(value, Absent)}

    def _look_up(
        self, shared: SharedCache, read: Read[T], keys: Sequence[str], *, with_lease: bool = False
    ) -> _LookUp:
        """Look keys up in Redis and return the reply.

        Adds the current values to the near cache, and drops damaged values from Redis.
        """
        ticket = self._near.begin_read()
        lease = None
        if with_lease:
            stored, lease = shared.get_and_lease(keys, read.depends_on, read.cached.codec.schema)
        else:
            stored = shared.get_many([*keys, *read.depends_on])
        found, damaged = read.cached.codec.decode_many(keys, stored, shared.origin)
        self._near.end_read(ticket, found, read.depends_on)
        if damaged:
            # drop damaged values: LEASE checks only the head of a value, so it would never grant a lease on
            # them
            shared.give_up(damaged)
        if lease is not None:
            # If MGET found a value and LEASE granted a lease, the key was deleted between the two commands.
            # This reader has to load the key, because other readers wait for the fill of the lease.
            for key in [key for key in found if lease.states[key] == GRANTED]:
                del found[key]
        missing = {key: value for key, value in zip(keys, stored, strict=False) if key not in found}
        return _LookUp(found, missing, lease)

    def _load_missing(
        self, shared: SharedCache, read: Read[T], keys: Sequence[str], lease: Lease | None
    ) -> Mapping[str, T | Absent]:
        """Load and fill keys. Wait for the keys that other processes are loading. Return all values."""
        self._timeline.learn()
        try:
            lease = lease or shared.lease(keys, read.depends_on, read.cached.codec.schema)
        except CacheDown:
            return self._load(read, keys)
        ours = [key for key in keys if lease.states[key] != TAKEN]
        theirs = [key for key in keys if lease.states[key] == TAKEN]
        found: dict[str, T | Absent] = {}
        if ours:
            # Fill our own keys first. Otherwise readers that wait for them would also wait for keys that
            # another process is loading.
            loaded = self._load_and_fill(shared, read, ours, lease)
            found.update(loaded)
        if theirs:
            awaited = self._wait_for(shared, read, theirs)
            found.update(awaited)
            late = [key for key in theirs if key not in found]
            if late:
                unshared = self._load(read, late)
                found.update(unshared)
        return found

    def _load_and_fill(
        self, shared: SharedCache, read: Read[T], keys: Sequence[str], lease: Lease
    ) -> Mapping[str, T]:
        granted = [key for key in keys if lease.states[key] == GRANTED]
        # a writer has fenced a key, and the LSN of its commit is not known yet: load from the primary
        lsn = None if FENCED in lease.states.values() else lease.lsn
        try:
            loaded = self._load(read, keys, lsn)
        except BaseException:
            shared.fill(lease, [(key, 0, b"") for key in granted])
            raise
        head = read.cached.codec.make_head(lease.origin, lease.versions)
        values = [(key, *_encode(read, loaded.get(key, ABSENT), head)) for key in granted]
        unstorable = sum(1 for _, milliseconds, _ in values if not milliseconds)
        count_refused = self._counters[read.cached.name].count_refused
        shared.fill(lease, values, lambda refused: count_refused(max(0, refused - unstorable)))
        return loaded

    def _wait_for(self, shared: SharedCache, read: Read[T], keys: Sequence[str]) -> dict[str, T | Absent]:
        """Return the values that other processes store under these keys within `WAIT_SECONDS`."""
        deadline = time.monotonic() + WAIT_SECONDS
        backoff = Backoff(first_seconds=WAIT_FIRST_SECONDS, max_seconds=WAIT_MAX_SECONDS)
        found: dict[str, T | Absent] = {}
        waiting = list(keys)
        while waiting:
            try:
                arrived, missing, _ = self._look_up(shared, read, waiting)
            except CacheDown:
                break
            found.update(arrived)
            # without a lease nobody is loading the key (its fill was refused or given up): do not wait for it
            waiting = [
                key
                for key, stored in missing.items()
                if is_lease(stored) and self._expired.get(key) != stored
            ]
            pause = backoff.next_seconds()
            if waiting and time.monotonic() + pause >= deadline:
                # Remember these leases, so that later reads do not wait for them again.
                self._expired = {key: missing[key] for key in waiting}
                break
            if waiting:
                time.sleep(pause)
        return found

    def _load(self, read: Read[T], keys: Sequence[str], lsn: int | None = None) -> Mapping[str, T]:
        started = time.perf_counter()
        try:
            return self._load_after(lsn, read.load, keys)
        finally:
            self._metrics.observe_cache_load(read.cached.name, time.perf_counter() - started)


def _encode(read: Read[T], value: T | Absent, head: bytes) -> tuple[int, bytes]:
    """Return the TTL of a value in milliseconds and its stored form.

    The TTL is 0 if the value cannot be stored.
    """
    if value is ABSENT:
        milliseconds = ABSENT_MILLISECONDS
    else:
        jitter = random.uniform(1 - TTL_JITTER, 1)  # noqa: S311  # spreads load, guards nothing
        milliseconds = round(read.cached.ttl_seconds * 1000 * jitter)
    try:
        return milliseconds, read.cached.codec.encode(value, head)
    except Unstorable as error:
        logger.info("a value of %s cannot be cached: %s", read.cached.name, error)
        return 0, b""
