"""The cache in front of PostgreSQL: cache-aside in Redis, never wrong, never in the way."""

from core.cache.cache import Cache
from core.cache.codec import Codec
from core.cache.keys import CacheKind
from core.cache.shared import NO_TOKEN

__all__ = ["NO_TOKEN", "Cache", "CacheKind", "Codec"]
