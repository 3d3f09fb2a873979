"""Cache-aside in two tiers: this process's near tier, then Redis, then the loader.

Owns the order of steps of a read and of an invalidation, and their counting: requests =
hits + misses + bypasses in each tier. Knows no models. A failure of Redis never reaches
the caller: the loader is asked instead.

Coherence: once a write has returned, a read of this process never gives an older value,
and neither does a read of another process that asks Redis; what another process's near
tier holds is dropped when the feed tells it, within milliseconds, and lives no longer
than the near tier's time to live in any case.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, overload

from frozendict import frozendict

from core.cache.breaker import CircuitBreaker
from core.cache.changes import Changes
from core.cache.claims import NO_FENCE, NO_TOKEN, Fence
from core.cache.codec import ABSENT, FENCE_MARK, Codec, new_token
from core.cache.diagnosis import hide_addresses
from core.cache.flights import Flights
from core.cache.keys import ALL_KINDS, CacheKind
from core.cache.last_known import LastKnown
from core.cache.meter import StaleReadMeter
from core.cache.near import NearTier
from core.cache.read_through import Load, Read, ReadThrough
from core.cache.shared import SharedTier
from core.cache.tally import Tally
from core.errors import DatabaseUnavailable, PoolTimeout, QueryTimeout
from core.forks import call_in_forked_child
from core.metrics import Metrics
from core.records import CacheStats
from core.settings import Settings

T = TypeVar("T")

# What a last known value stands in for: a server that hangs keeps connections, which are missed elsewhere.
UNANSWERED = (DatabaseUnavailable, PoolTimeout, QueryTimeout)


class Cache:
    """The cache of one process; thread safe."""

    def __init__(
        self,
        settings: Settings,
        *,
        client_name: str,
        metrics: Metrics,
        is_bypassed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._metrics = metrics
        self._is_bypassed = is_bypassed
        self._tallies = {kind.name: Tally(kind.name, metrics) for kind in ALL_KINDS}
        for tally in self._tallies.values():
            metrics.add_source(tally.publish)
        # those of this process, and those of others as far as its feed tells
        self._changes = Changes()
        self._flights = Flights(self._changes)
        self._near = NearTier(
            self._changes, max_entries=settings.near_cache_size, ttl_seconds=settings.near_cache_ttl / 1000
        )
        self._last_known = LastKnown(
            max_entries=settings.near_cache_size, seconds=settings.cache_failsafe / 1000
        )
        self._shared: SharedTier | None = None
        if settings.enable_redis_cache:
            breaker = CircuitBreaker(on_change=metrics.cache_breaker_open.set)
            self._shared = SharedTier(settings, client_name=client_name, breaker=breaker)
            self._feed = self._shared.make_feed(self._near)
            if settings.near_cache_size:
                self._feed.start()
        self._reader = ReadThrough(
            self._shared,
            self._near,
            self._tallies,
            metrics,
            on_hits=lambda read, hits: self._meter.see("shared", lambda: read, hits),
        )
        self._meter = StaleReadMeter(
            settings.stale_read_sample,
            metrics=metrics,
            find_near=self._near.get,
            find_shared=self._reader.peek,
        )
        call_in_forked_child(self._renew)

    def _renew(self) -> None:
        """Start over in a forked child: new locks, and a feed of its own before near is served."""
        for tally in self._tallies.values():
            tally.reset_after_fork()
        self._changes.reset_after_fork()
        self._flights.reset_after_fork()
        self._last_known.reset_after_fork()
        self._near.reset_after_fork()
        self._meter.renew()
        if self._shared is not None:
            self._shared.renew()
            if self._feed.is_started:
                self._feed.start()

    # -- read -------------------------------------------------------------------------

    @overload
    def get_or_load(
        self,
        kind: CacheKind,
        key: str,
        codec: Codec[T],
        load: Callable[[], T],
        *,
        depends_on: tuple[str, ...] = (),
    ) -> T: ...

    @overload
    def get_or_load(
        self,
        kind: CacheKind,
        key: str,
        codec: Codec[T],
        load: Callable[[], T | None],
        *,
        depends_on: tuple[str, ...] = (),
    ) -> T | None: ...

    def get_or_load(
        self,
        kind: CacheKind,
        key: str,
        codec: Codec[T],
        load: Callable[[], T | None],
        *,
        depends_on: tuple[str, ...] = (),
    ) -> T | None:
        """Return the value under `key`, loaded when it is missing or depends on what changed.

        None means that there is no such row, which is remembered for a few seconds. What `load`
        raises is raised. In a transaction the loader is always asked, and nothing is stored.
        """
        if self._is_bypassed():
            return load()
        ticket = self._last_known.begin()
        tally = self._tallies[kind.name]
        value = self._near.get(key)
        if value is not None:
            tally.count_near(hits=1, misses=0)
            if self._meter.is_on:
                self._meter.see(
                    "near", lambda: _read_of_one(kind, key, codec, load, depends_on), {key: value}
                )
            return None if value is ABSENT else value
        tally.count_near(hits=0, misses=int(self._near.is_live))
        read = _read_of_one(kind, key, codec, load, depends_on)
        try:
            answer = self._read_alone(read, key)
        except UNANSWERED:
            known: T | None = self._recall(key)
            if known is None:
                raise
            return known
        if answer is not None:
            self._last_known.remember(ticket, {key: answer}, depends_on)
        return answer

    def _read_alone(self, read: Read[T], key: str) -> T | None:
        """Read one key; threads that want it at the same time share a read."""
        if not self._near.is_live:
            unheard: T | None = self._flights.share_next(key, lambda: self._reader.read(read, [key]).get(key))
            return unheard
        answer: T | None = self._flights.share(
            key, read.depends_on, lambda: self._reader.read(read, [key]).get(key)
        )
        return answer

    def get_or_load_many(
        self,
        kind: CacheKind,
        keys: Sequence[str],
        codec: Codec[T],
        load: Load[T],
        *,
        depends_on: tuple[str, ...] = (),
    ) -> Mapping[str, T]:
        """Return the values that exist under `keys`; `load` gets all missing keys at once."""
        if self._is_bypassed():
            return dict(load(keys))
        ticket = self._last_known.begin()
        whole: dict[str, T] | None = self._near.get_all(tuple(keys))
        if whole is not None:
            self._tallies[kind.name].count_near(hits=len(keys), misses=0)
            if self._meter.is_on:
                self._meter.see("near", lambda: Read(kind, codec, load, depends_on), whole)
            return whole
        near = self._near.get_many(keys)
        missing = [key for key in keys if key not in near] if len(near) < len(keys) else []
        self._tallies[kind.name].count_near(hits=len(near), misses=len(missing) if self._near.is_live else 0)
        self._meter.see("near", lambda: Read(kind, codec, load, depends_on), near)
        found: dict[str, T] = near
        for key in [key for key, value in near.items() if value is ABSENT]:
            del found[key]
        if missing:
            try:
                read = self._reader.read(Read(kind, codec, load, depends_on), missing)
            except UNANSWERED:
                known = {key: value for key in missing if (value := self._recall(key)) is not None}
                if not known:
                    raise
                return found | known
            self._last_known.remember(ticket, read, depends_on)
            found |= read
        return found

    def _recall(self, key: str) -> Any:
        known = self._last_known.recall(key)
        if known is not None:
            self._metrics.cache_stale_served.inc()
        return known

    @property
    def stale_seconds(self) -> float | None:
        """How old the answer to the last read of this thread or task was; None when it was fresh.

        Not None only when the database did not answer and a last known value was served.
        """
        return self._last_known.age_seconds

    # -- change ---------------------------------------------------------------------------

    def fence(
        self, keys: Iterable[tuple[CacheKind, str]], token: bytes = NO_TOKEN, *, is_awaited: bool = False
    ) -> Fence:
        """Keep readers from filling what a transaction is about to commit.

        Call it when every statement is done and COMMIT comes next, or again then when a token of
        `new_fence` fenced keys long before. The fence is on its way when this returns, before
        whatever is sent to the database afterwards; its arrival is seen by `invalidate`, which
        therefore has to follow, or here when it `is_awaited`.
        """
        names = list(dict.fromkeys([key for _, key in keys]))
        if self._shared is None or not names:
            return Fence(token)
        token = token or self.new_fence()
        return self._shared.fence(names, token, is_awaited=is_awaited)

    @staticmethod
    def new_fence() -> bytes:
        """Return a token for `fence` that nobody else has."""
        return new_token(FENCE_MARK)

    def invalidate(
        self,
        changed: Iterable[tuple[CacheKind, str]],
        fence: Fence = NO_FENCE,
        *,
        is_certain: bool = True,
    ) -> None:
        """Drop keys whose data changed; call it after the commit, with their fence.

        When Redis does not answer, the keys are dropped before this process reads it again, and
        as soon as it answers. Not `is_certain`: the commit may still be to come, so the fence
        stays until it expires.
        """
        by_key = {key: kind for kind, key in changed}
        if not by_key:
            return
        for name, count in Counter(kind.name for kind in by_key.values()).items():
            self._tallies[name].count_invalidations(count)
        try:
            if self._shared is not None:
                if is_certain:
                    self._shared.delete(list(by_key), fence)
                else:
                    self._shared.keep_fence(list(by_key), fence)
        finally:
            # after Redis: a read that began before and ends now must not come back in
            self._near.invalidate(by_key)
            self._last_known.forget(by_key)

    # -- run ----------------------------------------------------------------------------

    def stats(self) -> CacheStats:
        """Return what this process counted, and whether Redis is in use."""
        state = "disabled"
        if self._shared is not None:
            state = "down" if self._shared.is_down else "enabled"
        counts = {name: tally.snapshot() for name, tally in self._tallies.items()}
        return CacheStats(state=state, caches=frozendict(counts), reason=self.find_bypass())

    def find_bypass(self) -> str | None:
        """Return why Redis, or the near tier, is not used as it should be; None while it is.

        No address is in it.
        """
        if self._shared is None:
            return None
        reason = self._shared.reason or (self._feed.reason and f"near cache off: {self._feed.reason}")
        return reason and hide_addresses(reason)

    def close(self) -> None:
        """Close every connection to Redis; a read after this asks its loader, and the database refuses it."""
        self._is_bypassed = lambda: True
        self._meter.close()
        if self._shared is not None:
            self._feed.close()
            self._shared.close()


def _read_of_one(
    kind: CacheKind, key: str, codec: Codec[T], load: Callable[[], T | None], depends_on: tuple[str, ...]
) -> Read[T]:
    def load_one(_: Sequence[str]) -> Mapping[str, T]:
        found = load()
        return {} if found is None else {key: found}

    return Read(kind, codec, load_one, depends_on)
