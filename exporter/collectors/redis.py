"""What Redis says of itself, as metrics.

Owns names of `echo_redis_*`, and the connections that ask for them, beside those of the cache.
"""

import contextlib
from collections.abc import Iterator

import redis
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from core.cache.connection import make_connection_factory
from core.settings import Settings
from exporter.collectors.lane import Collector, Lane

# Two that scrape the same exporter cost the server once.
BRIEF_SECONDS = 1.0


class RedisConnection:
    """Connects for each question, within the short timeout of the cache: an old connection may be cut."""

    def __init__(self, settings: Settings) -> None:
        """Connect to nothing yet."""
        self._make_wire = make_connection_factory(settings, "echo-markets-collector")

    @property
    def is_usable(self) -> bool:
        """Say yes: nothing is kept that could break."""
        return True

    def ping(self) -> bool:
        """Say yes without asking: the only command that follows is as good a question."""
        return True

    def info(self) -> dict[str, str]:
        """Return the fields of the sections that are shown; raises `redis.RedisError`."""
        with contextlib.closing(self._make_wire()) as wire:
            # one section each: several at once need Redis 7
            sections = [wire.ask("INFO", section) for section in ("memory", "stats")]
        lines = b"\r\n".join(sections).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def close(self) -> None:
        """Do nothing: no connection is kept."""


def open_redis_lane(settings: Settings) -> Lane[RedisConnection]:
    """Return Redis's collector on a connection of its own."""
    return Lane(lambda: RedisConnection(settings), [Collector("redis", collect_redis, BRIEF_SECONDS)])


def collect_redis(connection: RedisConnection) -> Iterator[Metric]:
    """Yield memory, and how often keys were found, missed and evicted."""
    info = connection.info()
    try:
        figures = {name: int(info[name]) for name in _INFO_FIELDS}
    except (KeyError, ValueError) as error:
        raise redis.InvalidResponse(f"INFO does not have the figures: {error}") from error
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
