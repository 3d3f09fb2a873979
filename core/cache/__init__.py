"""The cache in front of PostgreSQL: cache-aside in Redis, never wrong, never in the way."""

from core.cache.cache import Cache
from core.cache.claims import NO_FENCE, NO_TOKEN, Fence
from core.cache.codec import Codec
from core.cache.keys import CacheKind

__all__ = ["NO_FENCE", "NO_TOKEN", "Cache", "CacheKind", "Codec", "Fence"]
