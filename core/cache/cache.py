"""Cache-aside: a value comes from Redis or from its loader, and goes back unless it changed.

Owns the order of steps of a read and of an invalidation, and their counting:
requests = hits + misses + bypasses. Knows no models. A failure of Redis never
reaches the caller: the loader is asked instead.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from frozendict import frozendict

from core.cache.breaker import CircuitBreaker
from core.cache.codec import Codec, is_lease
from core.cache.keys import ALL_KINDS, CacheKind
from core.cache.shared import CacheDown, SharedTier
from core.cache.tally import Tally
from core.metrics import Metrics
from core.records import CacheStats
from core.settings import Settings

T = TypeVar("T")
Load = Callable[[Sequence[str]], Mapping[str, T]]

# Spreads expiry, so that what was filled together is not loaded together again.
TTL_JITTER = 0.1


@dataclass(frozen=True)
class _Read(Generic[T]):
    """What a read of some keys needs to know."""

    kind: CacheKind
    codec: Codec[T]
    load: Load[T]
    depends_on: tuple[str, ...]


class Cache:
    """The cache of one process; thread safe."""

    def __init__(self, settings: Settings, *, client_name: str, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tallies = {kind.name: Tally(kind.name, metrics) for kind in ALL_KINDS}
        self._shared: SharedTier | None = None
        if settings.enable_redis_cache:
            breaker = CircuitBreaker(on_change=metrics.cache_breaker_open.set)
            self._shared = SharedTier(settings, client_name=client_name, breaker=breaker)

    # -- read -------------------------------------------------------------------------

    def get_or_load(
        self,
        kind: CacheKind,
        key: str,
        codec: Codec[T],
        load: Callable[[], T],
        *,
        depends_on: Sequence[str] = (),
    ) -> T:
        """Return the value under `key`, loaded when it is missing or depends on what changed.

        What `load` raises is raised. The answer is at most the kind's TTL old, and never
        older than the last invalidation.
        """
        found = self.get_or_load_many(kind, [key], codec, lambda _: {key: load()}, depends_on=depends_on)
        return found[key]

    def get_or_load_many(
        self,
        kind: CacheKind,
        keys: Sequence[str],
        codec: Codec[T],
        load: Load[T],
        *,
        depends_on: Sequence[str] = (),
    ) -> dict[str, T]:
        """Return the values that exist under `keys`; `load` gets all missing keys at once."""
        read = _Read(kind, codec, load, tuple(depends_on))
        tally = self._tallies[kind.name]
        if self._shared is None:
            tally.count_bypasses("disabled", len(keys))
            return dict(self._load(read, keys))
        try:
            stored = self._shared.get_many([*keys, *depends_on])
        except CacheDown as down:
            tally.count_bypasses(down.reason, len(keys))
            return dict(self._load(read, keys))
        found = _decode(codec, keys, stored)
        missing = {
            key: value is not None and not is_lease(value)
            for key, value in zip(keys, stored, strict=False)
            if key not in found
        }
        tally.count_reads(hits=len(found), misses=len(missing))
        if missing:
            found |= self._fill(self._shared, read, missing)
        return found

    def _fill(self, shared: SharedTier, read: "_Read[T]", missing: Mapping[str, bool]) -> Mapping[str, T]:
        """Load under a lease and store what the lease still covers afterwards.

        `missing` says of each key whether something unusable is stored under it.
        """
        keys = list(missing)
        try:
            token, granted, versions = shared.lease(keys, read.depends_on, overwrite=list(missing.values()))
        except CacheDown:
            return self._load(read, keys)
        loaded = self._load(read, keys)
        values = [
            (key, _ttl_milliseconds(read.kind), read.codec.encode(loaded[key], versions))
            for key, is_ours in zip(keys, granted, strict=True)
            if is_ours and key in loaded
        ]
        if values:
            pairs = list(zip(read.depends_on, versions, strict=True))
            try:
                refused = len(values) - shared.fill(token, values, pairs)
            except CacheDown:
                return loaded
            self._tallies[read.kind.name].count_refused(refused)
        return loaded

    def _load(self, read: "_Read[T]", keys: Sequence[str]) -> Mapping[str, T]:
        started = time.perf_counter()
        try:
            return read.load(keys)
        finally:
            self._metrics.observe_cache_load(read.kind.name, time.perf_counter() - started)

    # -- invalidate ---------------------------------------------------------------------

    def invalidate(self, changed: Iterable[tuple[CacheKind, str]]) -> None:
        """Drop keys whose data changed; call it after the commit.

        When Redis does not answer, the keys are dropped before this process reads it again.
        """
        by_key = {key: kind for kind, key in changed}
        if not by_key:
            return
        for kind in set(by_key.values()):
            count = sum(1 for each in by_key.values() if each == kind)
            self._tallies[kind.name].count_invalidations(count)
        if self._shared is not None:
            self._shared.delete(list(by_key))

    # -- run ----------------------------------------------------------------------------

    def stats(self) -> CacheStats:
        """Return what this process counted, and whether Redis is in use."""
        state = "disabled"
        if self._shared is not None:
            state = "down" if self._shared.is_down else "enabled"
        counts = {name: tally.snapshot() for name, tally in self._tallies.items()}
        return CacheStats(state=state, caches=frozendict(counts))

    def close(self) -> None:
        """Close every connection to Redis."""
        if self._shared is not None:
            self._shared.close()


def _decode(codec: Codec[T], keys: Sequence[str], stored: Sequence[bytes | None]) -> dict[str, T]:
    versions = tuple(v for v in stored[len(keys) :] if v is not None)
    if len(versions) < len(stored) - len(keys):
        # a version is gone: nothing that depends on it may be used
        return {}
    found: dict[str, T] = {}
    for key, value in zip(keys, stored, strict=False):
        decoded = codec.decode(value, versions) if value is not None else None
        if decoded is not None:
            found[key] = decoded
    return found


def _ttl_milliseconds(kind: CacheKind) -> int:
    # downwards only: a value never lives longer than its kind says
    return round(kind.ttl_seconds * 1000 * random.uniform(1 - TTL_JITTER, 1))  # noqa: S311  # spreads load, guards nothing
