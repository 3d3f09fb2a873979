"""The cache in front of PostgreSQL. The module `core.cache.kinds` shows how to declare a cached read."""

from core.cache.cache import Cache
from core.cache.kinds import Cached, CacheKind
from core.cache.leases_and_fences import NO_FENCE, NO_TOKEN, Fence

__all__ = ["NO_FENCE", "NO_TOKEN", "Cache", "CacheKind", "Cached", "Fence"]
