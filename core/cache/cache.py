"""Cache-aside in two tiers: the near cache of this process, then Redis, then the loader.

Owns the order of the steps of a read and of an invalidation, and counts them. Knows no models. A failure of
Redis never reaches the caller: the loader is called instead.

Coherence: once a write has returned, no read of this process returns an older value, and neither does a read
of another process that reaches Redis. The near cache of another process drops the value when its
invalidation feed reports the change, within milliseconds, and at the latest when the value expires.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, TypeVarTuple, Unpack, overload

from frozendict import frozendict

from core.cache.capability import PUSH_PROTOCOL, hide_addresses
from core.cache.changes import ChangeLog, SingleFlight
from core.cache.codec import ABSENT, FENCE_MARK, new_token
from core.cache.counters import CacheCounters, StaleReadSampler
from core.cache.feed import InvalidationFeed
from core.cache.kinds import KINDS, Cached, Read, find_kind_name
from core.cache.leases_and_fences import NO_FENCE, NO_TOKEN, Fence
from core.cache.near import FailSafeValues, NearCache
from core.cache.position_slots import LoadAfter, load_anywhere
from core.cache.read_through import ReadThrough
from core.cache.shared import SharedCache
from core.errors import DatabaseUnavailable, PoolTimeout, QueryTimeout
from core.failover import KnownTimeline, Timeline
from core.forks import call_in_forked_child
from core.metrics import Metrics
from core.records import CacheStats
from core.settings import Settings

T = TypeVar("T")
Item = TypeVar("Item")
Args = TypeVarTuple("Args")

# The database did not answer. A pool timeout counts too: a server that hangs blocks the pool's connections.
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
        """Open no connection yet; `timeline` is the timeline of the database from which values are loaded.

        `load_after` loads missing values from a server that has replayed the WAL up to their last change.
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
        """Create every part; a forked child keeps only the breaker and the invalidation outbox."""
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
        """Drop all values that were read from an earlier timeline of the database."""
        if before is not None:
            self._near.clear()
            self._fail_safe.clear()
        if self._shared is not None:
            self._shared.guard.begin_timeline()

    def _reset_after_fork(self) -> None:
        """Start the child with an empty cache: it cannot use its parent's threads, locks and sockets."""
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
        """Return the value of a cached read for `args`, loaded when it is missing or outdated.

        None means that there is no such row; this answer is cached for a few seconds. Raises what `load`
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
        """Return the values that exist, by key; one call of `load` gets the items of all missing keys.

        `depends_on` lists the version keys on which the value of every key depends. The result may be
        shared: do not modify it.
        """
        if self._is_bypassed():
            return _read_of_many(cached, by_key, load, depends_on).load(tuple(by_key))
        self._fail_safe.begin_read()
        keys = tuple(by_key)
        counters = self._counters[cached.name]
        whole: dict[str, T] | None = self._near.get_all(keys)
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
        """Return keys that the near cache does not have; fail-safe values if the database does not answer."""
        # use the same object for the whole read: a fork during the read replaces the attribute
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
        """Return values from Redis or the loader; threads that read the same single key share one read."""
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
        """Age of the answer to the last read of this thread or task; None when the answer was fresh.

        Only a fail-safe value, served because the database did not answer, is not fresh.
        """
        return self._fail_safe.age_seconds

    # -- change ---------------------------------------------------------------------------

    def fence(self, keys: Iterable[str], token: bytes = NO_TOKEN, *, is_awaited: bool = False) -> Fence:
        """Keep readers from filling keys that a transaction is about to commit; return the fence.

        Call `fence` after the last statement, right before COMMIT. If the keys were fenced much earlier
        with a token of `new_fence`, call it again with this token right before COMMIT. When it returns, the
        command has been sent to Redis, so before the COMMIT is sent to the database. With `is_awaited` the
        reply of Redis is checked here, else by `invalidate`, which must follow.
        """
        names = list(dict.fromkeys(keys))
        if self._shared is None or not names:
            return Fence(token)
        token = token or self.new_fence()
        return self._shared.fence(names, token, is_awaited=is_awaited)

    @staticmethod
    def new_fence() -> bytes:
        """Return a fresh token for `fence`."""
        return new_token(FENCE_MARK)

    def invalidate(
        self,
        changed: Iterable[str],
        fence: Fence = NO_FENCE,
        *,
        outcome_known: bool = True,
        position: int | None = None,
    ) -> None:
        """Drop keys whose data changed; call it after the commit, with the fence of these keys.

        When Redis does not answer, the keys are dropped as soon as it does, and before this process reads
        from Redis again. When `outcome_known` is False, the COMMIT may still happen, so the fence stays
        until it expires. `position` is the LSN of the commit, None when it is unknown. Raises `ValueError`
        for a key that belongs to no kind.
        """
        keys = list(dict.fromkeys(changed))
        if not keys:
            return
        try:
            if self._shared is not None:
                if outcome_known:
                    self._shared.delete(keys, fence, position=position)
                else:
                    self._shared.keep_fence(keys, fence)
        finally:
            # after Redis: a read that began before the invalidation must not bring back the old value
            self._near.invalidate(keys)
            self._fail_safe.invalidate(keys)
        for name, count in Counter(map(find_kind_name, keys)).items():
            self._counters[name].count_invalidations(count)

    # -- run ----------------------------------------------------------------------------

    def _publish(self) -> None:
        for counters in self._counters.values():
            counters.publish()

    def stats(self) -> CacheStats:
        """Return the counters of this process, and whether Redis is in use."""
        state = "disabled"
        if self._shared is not None:
            state = "down" if self._shared.guard.is_down else "enabled"
        counts = {name: counters.snapshot() for name, counters in self._counters.items()}
        guard = None if self._shared is None else self._shared.guard
        return CacheStats(
            state=state,
            caches=frozendict(counts),
            reason=self.find_bypass(),
            topology=None if guard is None else guard.topology.name,
            server=None if guard is None else guard.find_server(),
        )

    def find_bypass(self) -> str | None:
        """Return why Redis or the near cache is off although it is enabled, else None; without addresses."""
        reason = self._shared and self._shared.guard.reason
        if not reason and self._feed is not None and self._feed.reason:
            reason = f"near cache off: {self._feed.reason}"
        return hide_addresses(reason) if reason else None

    def close(self) -> None:
        """Close every connection to Redis; later reads call only their loader, which fails without a pool."""
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
