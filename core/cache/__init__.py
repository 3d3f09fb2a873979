"""The cache in front of PostgreSQL: cache-aside in Redis, never wrong, never in the way."""

from core.cache.cache import Cache
from core.cache.codec import Codec
from core.cache.keys import CacheKind

__all__ = ["Cache", "CacheKind", "Codec"]
