"""The JSON of `GET /api/health/database`.

Owns the names in the document; evaluates nothing itself.
"""

from typing import Any

from core.records import Health, PoolStats


def build_health_document(health: Health) -> dict[str, Any]:
    """Return the document of one evaluation; times are milliseconds, the timestamp is UTC."""
    redis: dict[str, Any] = {"status": health.redis, "enabled": health.redis_enabled}
    if health.redis_enabled:
        redis["responseTimeMs"] = round(health.redis_seconds * 1000, 1)
    return {
        "status": health.status,
        "timestamp": health.timestamp.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "services": {
            "database": {
                "status": health.database,
                "responseTimeMs": round(health.database_seconds * 1000, 1),
                "migrationsPending": health.migrations_pending,
                "connectionPool": _build_pool(health.pool),
            },
            "redis": redis,
        },
    }


def _build_pool(pool: PoolStats) -> dict[str, Any]:
    is_exhausted = pool.requests_waiting > 0 and pool.pool_in_use >= pool.pool_max
    return {
        "status": "exhausted" if is_exhausted else "healthy",
        "maxConnections": pool.pool_max,
        "size": pool.pool_size,
        "available": pool.pool_available,
        "inUse": pool.pool_in_use,
        "waiting": pool.requests_waiting,
    }
