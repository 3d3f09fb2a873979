"""What the exporter's pages say, but for the metrics.

Owns the names in the JSON of `GET /api/health/database`, when the stack is ready, and the
page of links; evaluates nothing itself.
"""

from typing import Any

from core.records import Health, PoolUse
from core.stack_identity import StackIdentity

INDEX = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Echo Markets exporter</title></head>
<body>
<h1>Echo Markets exporter</h1>
<ul>
<li><a href="/metrics">/metrics</a>: every process of the stack, PostgreSQL and Redis</li>
<li><a href="/api/health/database">/api/health/database</a>: health of database and Redis</li>
<li><a href="/readyz">/readyz</a>: whether the stack can serve</li>
<li><a href="/livez">/livez</a>: whether this process runs</li>
</ul>
</body>
</html>
"""


def build_health_document(health: Health, stack: StackIdentity | None = None) -> dict[str, Any]:
    """Return the document of one evaluation; times are milliseconds, the timestamp is UTC.

    `stack` says whose health it is: its name, and a digest of where its database is.
    """
    redis: dict[str, Any] = {"status": health.redis, "enabled": health.redis_enabled}
    if health.redis_enabled:
        redis["responseTimeMs"] = round(health.redis_seconds * 1000, 1)
    if health.redis_reason:
        redis["reason"] = health.redis_reason
    database: dict[str, Any] = {
        "status": health.database,
        "responseTimeMs": round(health.database_seconds * 1000, 1),
        "migrationsPending": health.migrations_pending,
        "connectionPool": _build_pool(health.pool),
    }
    if health.database_reason:
        database["reason"] = health.database_reason
    return {
        "status": health.status,
        **({} if stack is None else {"stack": str(stack)}),
        "timestamp": health.timestamp.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "services": {
            "database": database,
            "redis": redis,
        },
    }


def describe_readiness(health: Health) -> tuple[bool, str]:
    """Say whether this version of the stack can serve, and if not, why.

    Not with migrations pending: what answers then fails as soon as it needs what they bring. Nor
    without writes.
    """
    if health.database == "unhealthy":
        return False, "not ready: the database does not answer"
    if health.is_read_only:
        return False, f"not ready: the database cannot be written: {health.database_reason}"
    if health.migrations_pending:
        return (
            False,
            f"not ready: migrations pending: {health.migrations_pending}; `make migrate` applies them",
        )
    if health.status == "unhealthy":
        return (
            False,
            f"not ready: redis cannot be used, and HEALTH_REQUIRE_REDIS is set: {health.redis_reason}",
        )
    return True, "ready"


def _build_pool(pool: PoolUse) -> dict[str, Any]:
    return {
        "status": "exhausted" if pool.is_exhausted else "healthy",
        "maxConnections": pool.pool_max,
        "size": pool.pool_size,
        "available": pool.pool_available,
        "inUse": pool.pool_in_use,
        "waiting": pool.requests_waiting,
    }
