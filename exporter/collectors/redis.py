"""What Redis says of itself, as metrics.

Owns names of `echo_redis_*`, and a connection beside those of the cache.
"""

from collections.abc import Iterator
from typing import Any

import redis
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from core.cache.shared import connect_redis
from core.settings import Settings
from exporter.collectors.lane import Collector, Lane

# Two that scrape the same exporter cost the server once.
BRIEF_SECONDS = 1.0


class RedisConnection:
    """A client of which each command has the short timeout of the cache."""

    def __init__(self, settings: Settings) -> None:
        """Connect to nothing yet: the client does with its first command, and again when need be."""
        self._client = connect_redis(settings, "echo-markets-collector")

    @property
    def is_usable(self) -> bool:
        """Say yes: the client connects anew by itself."""
        return True

    def ping(self) -> bool:
        """Say yes without asking: the only command that follows is as good a question."""
        return True

    def info(self) -> dict[str, Any]:
        """Return the sections that are shown; raises `redis.RedisError`."""
        found: dict[str, Any] = self._client.info("memory", "stats")
        return found

    def close(self) -> None:
        """Close it."""
        self._client.close()


def open_redis_lane(settings: Settings) -> Lane[RedisConnection]:
    """Return Redis's collector on a connection of its own."""
    return Lane(lambda: RedisConnection(settings), [Collector("redis", collect_redis, BRIEF_SECONDS)])


def collect_redis(connection: RedisConnection) -> Iterator[Metric]:
    """Yield memory, and how often keys were found, missed and evicted."""
    info = connection.info()
    try:
        figures = {name: int(info[name]) for name in _INFO_FIELDS}
    except KeyError as error:
        raise redis.InvalidResponse(f"INFO does not say {error}") from error
    yield GaugeMetricFamily(
        "echo_redis_memory_used_bytes", "Memory that Redis uses", value=figures["used_memory"]
    )
    yield GaugeMetricFamily(
        "echo_redis_memory_max_bytes",
        "Memory that Redis may use, 0 without a limit",
        value=figures["maxmemory"],
    )
    yield CounterMetricFamily(
        "echo_redis_keyspace_hits", "Keys that Redis had", value=figures["keyspace_hits"]
    )
    yield CounterMetricFamily(
        "echo_redis_keyspace_misses", "Keys that Redis did not have", value=figures["keyspace_misses"]
    )
    yield CounterMetricFamily(
        "echo_redis_evicted_keys", "Keys that Redis evicted for room", value=figures["evicted_keys"]
    )


_INFO_FIELDS = ("used_memory", "maxmemory", "keyspace_hits", "keyspace_misses", "evicted_keys")
