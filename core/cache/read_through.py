"""Reads through Redis: the values that it has, else the loader's answer, stored under a lease.

Owns the steps of a read that the near cache could not answer, for one key and for many alike:

1. look up: ask Redis for the values and, when a miss is likely, for leases in the same round trip;
2. lease: ask for leases on the keys that are missing;
3. load the keys whose lease was granted, and those that a writer has fenced;
4. fill: store what was loaded under a granted lease;
5. wait for the keys that another process is loading, and load what does not come.

A failure of Redis costs the loader a call, and never the caller an error.
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
from core.cache.near import NearCache
from core.cache.position_slots import LoadAfter
from core.cache.shared import SharedCache
from core.failover import KnownTimeline
from core.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A reader waits for another process for longer than most loads take, then loads the key itself.
WAIT_SECONDS = 2.0
WAIT_FIRST_SECONDS = 0.001
WAIT_LONGEST_SECONDS = 0.01


class _LookUp(NamedTuple):
    """A reply of Redis, divided into current values and the stored bytes of all other keys."""

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
        # kinds whose last look-up found nothing: the next one asks for leases in the same round trip;
        # on a miss this saves one round trip, on a hit it costs Redis one script
        self._missed: set[str] = set()
        # leases that were not filled in time, by key: their owners may have died
        self._expired: dict[str, bytes | None] = {}

    def read(self, read: Read[T], keys: Sequence[str]) -> dict[str, T]:
        """Ask Redis, then the loader; rows that do not exist are left out."""
        counters = self._counters[read.cached.name]
        if self._shared is None:
            counters.count_bypasses("disabled", len(keys))
            return dict(self._load(read, keys))
        # the values may be those of another database
        away = self._timeline.try_to_learn()
        # a lease is asked for once the timeline is known for which the value will be stored
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
            if away is not None:
                # the load would fail as well
                raise away
            found.update(self._load_missing(self._shared, read, list(missing), lease))
        return {key: value for key, value in found.items() if not isinstance(value, Absent)}

    def _look_up(
        self, shared: SharedCache, read: Read[T], keys: Sequence[str], *, with_lease: bool = False
    ) -> _LookUp:
        """Look keys up in Redis, admit the values to the near cache, and drop damaged values from Redis."""
        ticket = self._near.begin_read()
        lease = None
        if with_lease:
            stored, lease = shared.get_and_lease(keys, read.depends_on, read.cached.codec.schema)
        else:
            stored = shared.get_many([*keys, *read.depends_on])
        found, damaged = read.cached.codec.decode_many(keys, stored, shared.origin)
        self._near.end_read(ticket, found, read.depends_on)
        if damaged:
            # the script takes such a value for a current one, and would grant no lease
            shared.give_up(damaged)
        if lease is not None:
            # a key that was deleted between the look-up and its lease: other readers now wait for our fill
            for key in [key for key in found if lease.states[key] == GRANTED]:
                del found[key]
        missing = {key: value for key, value in zip(keys, stored, strict=False) if key not in found}
        return _LookUp(found, missing, lease)

    def _load_missing(
        self, shared: SharedCache, read: Read[T], keys: Sequence[str], lease: Lease | None
    ) -> Mapping[str, T | Absent]:
        """Load under leases and fill; wait for the keys that other processes load."""
        self._timeline.learn()
        try:
            lease = lease or shared.lease(keys, read.depends_on, read.cached.codec.schema)
        except CacheDown:
            return self._load(read, keys)
        ours = [key for key in keys if lease.states[key] != TAKEN]
        theirs = [key for key in keys if lease.states[key] == TAKEN]
        found: dict[str, T | Absent] = {}
        if ours:
            # first: readers that wait for these keys must not wait for keys that another process loads
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
        # what a writer that holds a fence commits has no position yet
        position = None if FENCED in lease.states.values() else lease.position
        try:
            loaded = self._load(read, keys, position)
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
        """Return what other processes store under these keys within `WAIT_SECONDS`."""
        deadline = time.monotonic() + WAIT_SECONDS
        backoff = Backoff(first_seconds=WAIT_FIRST_SECONDS, longest_seconds=WAIT_LONGEST_SECONDS)
        found: dict[str, T | Absent] = {}
        waiting = list(keys)
        while waiting:
            try:
                arrived, missing, _ = self._look_up(shared, read, waiting)
            except CacheDown:
                break
            found.update(arrived)
            # nobody loads a key without a lease: its fill was refused or given up
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

    def _load(self, read: Read[T], keys: Sequence[str], position: int | None = None) -> Mapping[str, T]:
        started = time.perf_counter()
        try:
            return self._load_after(position, read.load, keys)
        finally:
            self._metrics.observe_cache_load(read.cached.name, time.perf_counter() - started)


def _encode(read: Read[T], value: T | Absent, head: bytes) -> tuple[int, bytes]:
    """Return how many milliseconds a value may be stored, and its stored form; 0 if it cannot be stored."""
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
