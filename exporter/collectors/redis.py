"""Metrics from the Redis command INFO."""

import contextlib
from collections.abc import Iterator

import redis
from prometheus_client.core import Metric

from core.cache.topology import make_connection_factory
from core.metrics.names import APPLICATION_PREFIX, counter, gauge
from core.settings import Settings
from exporter.collectors.runner import BRIEF_SECONDS, Collector, CollectorRunner, ServerAway

# The sections of INFO that are read, each with its own command: Redis 6 accepts only one section per command.
SECTIONS = ("memory", "stats")
METRICS = {
    "used_memory": gauge("echo_redis_memory_used_bytes", "Memory that Redis uses"),
    "maxmemory": gauge("echo_redis_memory_max_bytes", "Memory that Redis may use, 0 without a limit"),
    "keyspace_hits": counter("echo_redis_keyspace_hits_total", "Keys that Redis had"),
    "keyspace_misses": counter("echo_redis_keyspace_misses_total", "Keys that Redis did not have"),
    "evicted_keys": counter("echo_redis_evicted_keys_total", "Keys that Redis evicted for room"),
}
"""The fields of INFO that are reported, each with its metric."""


class InfoConnection:
    """A client that opens a connection for each run of the collector. Its timeout is REDIS_TIMEOUT."""

    is_usable = True

    def __init__(self, settings: Settings) -> None:
        self._connect = make_connection_factory(settings, f"{APPLICATION_PREFIX}collector")

    def ping(self) -> bool:
        """Return True: each run opens a new connection, so there is no old one that could be broken."""
        return True

    def read_info(self) -> dict[str, str]:
        """Return the fields of INFO.

        Raises `ServerAway` if Redis cannot be reached, and `redis.RedisError` for an error reply.
        """
        try:
            with contextlib.closing(self._connect()) as connection:
                sections = [connection.execute("INFO", section) for section in SECTIONS]
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise ServerAway(error) from None
        lines = b"\r\n".join(sections).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def close(self) -> None:
        """Do nothing: each run closes its own connection."""


def open_redis_runner(settings: Settings) -> CollectorRunner[InfoConnection]:
    """Return the runner of the Redis collector. It connects when it runs."""
    return CollectorRunner(
        lambda: InfoConnection(settings), [Collector("redis", collect_redis, BRIEF_SECONDS)]
    )


def collect_redis(connection: InfoConnection) -> Iterator[Metric]:
    """Yield the memory use, and the numbers of keyspace hits, misses and evictions."""
    info = connection.read_info()
    try:
        values = [int(info[field]) for field in METRICS]
    except (KeyError, ValueError) as error:
        raise redis.InvalidResponse(f"INFO lacks a field: {error}") from error
    for definition, value in zip(METRICS.values(), values, strict=True):
        yield definition.build(value)
