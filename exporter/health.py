"""Builds the health document and the text of `/readyz` from the health that `core.health` evaluates."""

from typing import Any

from core.records import Health, PoolUse
from core.settings.stack_identity import StackIdentity


def build_health_document(health: Health, stack: StackIdentity | None) -> dict[str, Any]:
    """Return the health as a JSON document, with durations in milliseconds and a UTC timestamp.

    `stack` identifies the stack by its name and a digest of its database's address.
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
        "services": {"database": database, "redis": redis},
    }


def _build_pool(pool: PoolUse) -> dict[str, Any]:
    return {
        "status": "exhausted" if pool.is_exhausted else "healthy",
        "maxConnections": pool.pool_max,
        "size": pool.pool_size,
        "available": pool.pool_available,
        "inUse": pool.pool_in_use,
        "waiting": pool.requests_waiting,
    }


def describe_readiness(health: Health) -> tuple[bool, str]:
    """Return whether the stack can serve, and a text with the reason if it cannot.

    The stack is ready if the database answers and accepts writes, no migrations are pending, and Redis can
    be used or is not required. Calls that need the new schema would fail while migrations are pending.
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
