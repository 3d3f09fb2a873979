"""The cache of one process. A read asks the near cache, then Redis, and then calls the loader (cache-aside).

Owns the order of the steps of a read and of an invalidation, and counts reads and invalidations. Knows no
models. An error of Redis never reaches the caller: the loader is called instead.

Coherence: after a write has returned, no read of this process returns an older value. The same holds for a
read of another process that reaches Redis. The near cache of another process may return an old value until
its invalidation feed reports the change. This takes milliseconds; without the report, the old value expires
after its TTL.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, TypeVarTuple, Unpack, overload

from frozendict import frozendict

from core.cache.capability import PUSH_PROTOCOL, hide_addresses
from core.cache.change_log import ChangeLog
from core.cache.codec import ABSENT, FENCE_MARK, new_token
from core.cache.counters import CacheCounters, StaleReadSampler
from core.cache.feed import InvalidationFeed
from core.cache.kinds import KINDS, Cached, Read, find_kind_name
from core.cache.leases_and_fences import NO_FENCE, NO_TOKEN, Fence
from core.cache.lsn_slots import LoadAfter, load_anywhere
from core.cache.near import FailSafeValues, NearCache
from core.cache.read_through import ReadThrough
from core.cache.shared import SharedCache
from core.cache.single_flight import SingleFlight
from core.errors import DatabaseUnavailable, PoolTimeout, QueryTimeout
from core.failover import KnownTimeline, Timeline
from core.forks import call_in_forked_child
from core.metrics import Metrics
from core.records import CacheStats
from core.settings import Settings

T = TypeVar("T")
Item = TypeVar("Item")
Args = TypeVarTuple("Args")

# Errors after which a read returns fail-safe values: the database did not answer. `PoolTimeout` is one of
# them, because a server that hangs blocks the connections of the pool.
NO_ANSWER = (DatabaseUnavailable, PoolTimeout, QueryTimeout)


class Cache:
    """The cache of one process; thread safe."""

    def __init__(
        self,
        settings: Settings,
        *,
        client_name: str,
        metrics: Metrics,
        is_bypassed: Callable[[], bool] = lambda: False,
        load_after: LoadAfter = load_anywhere,
        timeline: KnownTimeline | None = None,
    ) -> None:
        """Create the cache. Only the invalidation feed connects to Redis now, in a background thread.

        `timeline` is the timeline of the database from which values are loaded. `load_after` loads missing
        values from a server that has replayed the WAL up to their last change. While `is_bypassed` returns
        True, reads only call their loader.
        """
        self._load_after = load_after
        self._settings = settings
        self._client_name = client_name
        self._metrics = metrics
        self._is_bypassed = is_bypassed
        self._is_closed = False
        self._shared: SharedCache | None = None
        self._timeline = timeline or KnownTimeline()
        self._open()
        self._timeline.call_on_change(self._begin_timeline)
        metrics.add_source(self._publish)
        call_in_forked_child(self._reset_after_fork)

    def _open(self) -> None:
        """Create everything that has threads, locks or sockets, and start the invalidation feed.

        A forked child keeps only the circuit breaker and the invalidation outbox of its parent.
        """
        settings, metrics = self._settings, self._metrics
        self._counters = {kind.name: CacheCounters(kind.name, metrics) for kind in KINDS}
        self._changes = ChangeLog()
        self._single_flight = SingleFlight(self._changes)
        self._near = NearCache(
            self._changes, max_entries=settings.near_cache_size, ttl_seconds=settings.near_cache_ttl / 1000
        )
        self._fail_safe = FailSafeValues(
            max_entries=settings.near_cache_size, seconds=settings.cache_failsafe / 1000
        )
        self._feed: InvalidationFeed | None = None
        if settings.enable_redis_cache:
            self._shared = SharedCache(
                settings,
                client_name=self._client_name,
                report_outage=metrics.cache_breaker_open.set,
                timeline=self._timeline,
                report_move=metrics.cache_primary_changes.inc,
                parent=self._shared,
            )
            metrics.set_cache_topology(self._shared.guard.topology.name)
            if settings.near_cache_size:
                guard = self._shared.guard
                self._feed = InvalidationFeed(
                    guard.topology.make_connection,
                    self._near,
                    prefix=settings.redis_key_prefix,
                    capability=guard.capability,
                    is_possible=guard.topology.address.protocol == PUSH_PROTOCOL,
                )
                self._feed.start()
        self._sampler = StaleReadSampler(
            settings.stale_read_sample,
            metrics=metrics,
            near=self._near,
            shared=self._shared,
            load_after=self._load_after,
        )
        self._reader = ReadThrough(
            self._shared,
            self._near,
            counters=self._counters,
            sampler=self._sampler,
            metrics=metrics,
            load_after=self._load_after,
            timeline=self._timeline,
        )

    def _begin_timeline(self, before: Timeline | None) -> None:
        """Drop the values that were read from the timeline `before`. Record the new timeline in Redis."""
        if before is not None:
            self._near.clear()
            self._fail_safe.clear()
        if self._shared is not None:
            self._shared.guard.begin_timeline()

    def _reset_after_fork(self) -> None:
        """Give a forked child an empty cache: threads, locks and sockets of its parent are unusable there."""
        if not self._is_closed:
            self._open()

    # -- read -------------------------------------------------------------------------

    @overload
    def get_or_load(self, cached: Cached[T, *Args], load: Callable[[Unpack[Args]], T], *args: *Args) -> T: ...

    @overload
    def get_or_load(
        self, cached: Cached[T, *Args], load: Callable[[Unpack[Args]], T | None], *args: *Args
    ) -> T | None: ...

    def get_or_load(
        self, cached: Cached[T, *Args], load: Callable[[Unpack[Args]], T | None], *args: *Args
    ) -> T | None:
        """Return the value for `args` from the cache. If the cache has no current value, call `load(*args)`.

        None means that the row does not exist; this result is cached for a few seconds. Raises what `load`
        raises. In a transaction `load` is always called, and nothing is stored.
        """
        if self._is_bypassed():
            return load(*args)
        key = cached.key(*args)
        self._fail_safe.begin_read()
        value = self._near.get(key)
        counters = self._counters[cached.name]
        if value is not None:
            counters.count_near(hits=1, misses=0)
            if self._sampler.is_on:
                self._sampler.sample("near", lambda: _read_of_one(cached, key, load, args), {key: value})
            return None if value is ABSENT else value
        counters.count_near(hits=0, misses=int(self._near.is_live))
        return self._read_missing(_read_of_one(cached, key, load, args), [key]).get(key)

    def get_or_load_many(
        self,
        cached: Cached[T, *tuple[Any, ...]],
        by_key: Mapping[str, Item],
        load: Callable[[list[Item]], Mapping[Item, T]],
        *,
        depends_on: tuple[str, ...] = (),
    ) -> Mapping[str, T]:
        """Return the values of several keys. Keys of rows that do not exist are left out.

        `by_key` maps each key to the item that `load` takes. `load` gets the items of all missing keys,
        usually in one call. `depends_on` lists the version keys on which the value of every key depends.
        Other callers may get the same mapping: do not modify it.
        """
        if self._is_bypassed():
            return _read_of_many(cached, by_key, load, depends_on).load(tuple(by_key))
        self._fail_safe.begin_read()
        keys = tuple(by_key)
        counters = self._counters[cached.name]
        whole: dict[str, T] | None = self._near.find_result(keys)
        if whole is not None:
            counters.count_near(hits=len(keys), misses=0)
            if self._sampler.is_on:
                self._sampler.sample("near", lambda: _read_of_many(cached, by_key, load, depends_on), whole)
            return whole
        found: dict[str, T] = self._near.get_many(keys)
        missing = [key for key in keys if key not in found]
        counters.count_near(hits=len(found), misses=len(missing) if self._near.is_live else 0)
        if self._sampler.is_on:
            self._sampler.sample("near", lambda: _read_of_many(cached, by_key, load, depends_on), found)
        for key in [key for key, value in found.items() if value is ABSENT]:
            del found[key]
        if missing:
            found.update(self._read_missing(_read_of_many(cached, by_key, load, depends_on), missing))
        return found

    def _read_missing(self, read: Read[T], keys: Sequence[str]) -> Mapping[str, T]:
        """Read keys that are not in the near cache; fall back to fail-safe values if the database is down."""
        # use this object for the whole read: if the process forks meanwhile, the child gets another one
        fail_safe = self._fail_safe
        ticket = fail_safe.take_ticket()
        try:
            found = self._read_shared(read, keys)
        except NO_ANSWER:
            known: dict[str, T] = {key: value for key in keys if (value := fail_safe.recall(key)) is not None}
            if not known:
                raise
            self._metrics.cache_stale_served.inc(len(known))
            return known
        fail_safe.remember(ticket, found, read.depends_on)
        return found

    def _read_shared(self, read: Read[T], keys: Sequence[str]) -> Mapping[str, T]:
        """Return values from Redis or from the loader.

        Threads that read the same key at the same time share one read. Reads of several keys are not shared.
        """
        if len(keys) > 1:
            return self._reader.read(read, keys)
        [key] = keys
        found: Mapping[str, T]
        if self._near.is_live:
            found = self._single_flight.do(key, read.depends_on, lambda: self._reader.read(read, keys))
        else:
            found = self._single_flight.do_next(key, lambda: self._reader.read(read, keys))
        return found

    @property
    def stale_seconds(self) -> float | None:
        """Age of the result of the last read in seconds if it was a fail-safe value, else None.

        The last read is that of this thread or asyncio task. Fail-safe values are returned only when the
        database does not answer.
        """
        return self._fail_safe.age_seconds

    # -- change ---------------------------------------------------------------------------

    def fence(self, keys: Iterable[str], token: bytes = NO_TOKEN, *, is_awaited: bool = False) -> Fence:
        """Set a fence on keys: no reader fills them until `invalidate` removes the fence. Return the fence.

        Call `fence` after the last statement, right before COMMIT. If the keys were fenced much earlier with
        a token of `new_fence`, call `fence` again with this token right before COMMIT. The fence command is
        sent to Redis before `fence` returns, and so before the COMMIT is sent to the database. With
        `is_awaited`, `fence` also reads the reply of Redis. Otherwise `invalidate` reads the reply. Always
        call `invalidate` afterwards, with the returned fence.
        """
        names = list(dict.fromkeys(keys))
        if self._shared is None or not names:
            return Fence(token)
        token = token or self.new_fence()
        return self._shared.fence(names, token, is_awaited=is_awaited)

    @staticmethod
    def new_fence() -> bytes:
        """Return a new random token for `fence`."""
        return new_token(FENCE_MARK)

    def invalidate(
        self,
        changed: Iterable[str],
        fence: Fence = NO_FENCE,
        *,
        outcome_known: bool = True,
        lsn: int | None = None,
    ) -> None:
        """Drop the values of keys whose rows changed. Call it after the commit, with the fence of these keys.

        If Redis does not answer, the keys are dropped as soon as Redis answers again, and before this process
        reads from Redis. Pass `outcome_known=False` if the COMMIT may still happen; the fence then stays
        until it expires. `lsn` is the LSN of the commit, or None if it is unknown. Raises `ValueError` for a
        key of a kind that is not in `KINDS`.
        """
        keys = list(dict.fromkeys(changed))
        if not keys:
            return
        try:
            if self._shared is not None:
                if outcome_known:
                    self._shared.delete(keys, fence, lsn=lsn)
                else:
                    self._shared.keep_fence(keys, fence)
        finally:
            # The near cache comes after Redis. In the other order, a running read could still find the old
            # value in Redis and store it here.
            self._near.invalidate(keys)
            self._fail_safe.invalidate(keys)
        for name, count in Counter(map(find_kind_name, keys)).items():
            self._counters[name].count_invalidations(count)

    # -- statistics and shutdown --------------------------------------------------------

    def _publish(self) -> None:
        for counters in self._counters.values():
            counters.publish()

    def stats(self) -> CacheStats:
        """Return the counters of this process, and whether Redis is in use."""
        counts = {name: counters.snapshot() for name, counters in self._counters.items()}
        guard = None if self._shared is None else self._shared.guard
        return CacheStats(
            state="disabled" if guard is None else "down" if guard.breaker.is_open else "enabled",
            caches=frozendict(counts),
            reason=self.find_bypass(),
            topology=None if guard is None else guard.topology.name,
            server=None if guard is None else guard.find_server(),
        )

    def find_bypass(self) -> str | None:
        """Return why an enabled Redis or near cache is not used, else None. The text hides addresses."""
        reason = self._shared and self._shared.guard.reason
        if not reason and self._feed is not None and self._feed.reason:
            reason = f"near cache off: {self._feed.reason}"
        return hide_addresses(reason) if reason else None

    def close(self) -> None:
        """Close every connection to Redis. Later reads only call their loader."""
        self._is_closed = True
        self._is_bypassed = lambda: True
        self._sampler.close()
        if self._feed is not None:
            self._feed.close()
        if self._shared is not None:
            self._shared.guard.close()


def _read_of_one(
    cached: Cached[T, *Args],
    key: str,
    load: Callable[[Unpack[Args]], T | None],
    args: tuple[*Args],
) -> Read[T]:
    cached.check_key(key)

    def load_one(_: Sequence[str]) -> Mapping[str, T]:
        found = load(*args)
        return {} if found is None else {key: found}

    return Read(cached, load_one, cached.depends_on(*args))


def _read_of_many(
    cached: Cached[T, *tuple[Any, ...]],
    by_key: Mapping[str, Item],
    load: Callable[[list[Item]], Mapping[Item, T]],
    depends_on: tuple[str, ...],
) -> Read[T]:
    for key in by_key:
        cached.check_key(key)

    def load_many(keys: Sequence[str]) -> Mapping[str, T]:
        found = load([by_key[key] for key in keys])
        return {key: found[by_key[key]] for key in keys if by_key[key] in found}

    return Read(cached, load_many, (*depends_on, *cached.report_keys))
