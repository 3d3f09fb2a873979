"""How the pools of a host's processes are used, from the gauges that each of them writes.

Owns what an exhausted pool is, for the process that asks and for all others alike. Holds no
connection and reads no server.
"""

from collections.abc import Iterable, Sequence

from prometheus_client.samples import Sample

from core.records import PoolStats, PoolUse

CONNECTIONS = "echo_db_pool_connections"
LIMIT = "echo_db_pool_max_connections"
WAITING = "echo_db_pool_pending_requests"


def describe_pool(stats: PoolStats) -> PoolUse:
    """Return how the pool of this process is used; it is exhausted when a checkout would wait."""
    return PoolUse(
        pool_max=stats.pool_max,
        pool_size=stats.pool_size,
        pool_available=stats.pool_available,
        pool_in_use=stats.pool_in_use,
        requests_waiting=stats.requests_waiting,
        is_exhausted=stats.pool_size >= stats.pool_max and stats.pool_available == 0,
    )


def read_pool(gauges: Iterable[Sample]) -> PoolUse:
    """Return how the pool of another process is used; without any pool all is 0."""
    figures = dict.fromkeys((LIMIT, WAITING, "idle", "used"), 0)
    for sample in gauges:
        key = sample.labels.get("state", "") if sample.name == CONNECTIONS else sample.name
        if key in figures:
            figures[key] += int(sample.value)
    limit, used, idle = figures[LIMIT], figures["used"], figures["idle"]
    return PoolUse(
        pool_max=limit,
        pool_size=used + idle,
        pool_available=idle,
        pool_in_use=used,
        requests_waiting=figures[WAITING],
        is_exhausted=0 < limit <= used,
    )


def add_up_pools(pools: Sequence[PoolUse]) -> PoolUse:
    """Return the sum of pools; it is exhausted as soon as one of them is: the others cannot help."""
    return PoolUse(
        pool_max=sum(pool.pool_max for pool in pools),
        pool_size=sum(pool.pool_size for pool in pools),
        pool_available=sum(pool.pool_available for pool in pools),
        pool_in_use=sum(pool.pool_in_use for pool in pools),
        requests_waiting=sum(pool.requests_waiting for pool in pools),
        is_exhausted=any(pool.is_exhausted for pool in pools),
    )
