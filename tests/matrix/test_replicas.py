"""A replica of Debian's PostgreSQL together with PgBouncer, the database roles and Debian's Redis."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from pydantic import SecretStr

from core import open_service
from core.database.roles import APP
from tests.conftest import connected
from tests.matrix.caches.servers import require_program, run_server
from tests.matrix.servers import run_debian_postgres, run_debian_replica, run_pgbouncer
from tests.patience import wait_until
from tests.replicas import ON_REPLICA, ReplicaPair, count_reads, paused_replay, wait_until_used
from tests.roles import PASSWORDS, give_to_roles, settings_as, url_as

POOLER = {"ignore_startup_parameters": "options", "default_pool_size": "10"}


def test_a_replica_behind_a_pooler_serves_players(
    server_directory: Callable[[], Path],
) -> None:
    """A player's cache miss is read on the replica, and a player's read sees a write that is not replayed."""
    program = require_program("redis")
    with ExitStack() as stack:
        primary = stack.enter_context(run_debian_postgres(server_directory()))
        with connected(primary.url()) as run:
            run("ALTER SYSTEM SET synchronous_commit = on")
            run("SELECT pg_reload_conf()")
        replica = stack.enter_context(run_debian_replica(server_directory(), primary))
        accounts = {"postgres": primary.password, **PASSWORDS}
        poolers = [
            stack.enter_context(run_pgbouncer(server_directory(), server, accounts, **POOLER))
            for server in (primary, replica)
        ]
        give_to_roles(primary.url())
        ReplicaPair(primary, replica).wait_until_replayed()
        cache = stack.enter_context(run_server(program, server_directory()))
        settings = settings_as(
            APP,
            primary._replace(port=poolers[0]).url(),
            database_replica_urls=SecretStr(url_as(APP, replica._replace(port=poolers[1]).url())),
            redis_url=SecretStr(cache.url()),
        )
        service = stack.enter_context(open_service(settings))
        wait_until_used(service)
        user = service.create_user(username="alice")
        view = service.as_user(user.id)

        def misses_on_replica() -> bool:
            before = count_reads(service).get(ON_REPLICA, 0)
            cache.admin.delete(f"user:{user.id}")
            service._cache._near.clear()
            assert view.get_profile().id == user.id
            return count_reads(service).get(ON_REPLICA, 0) > before

        wait_until(misses_on_replica, "a player's cold read runs on the replica", 20.0)
        with paused_replay(replica.url()):
            name = f"n{uuid4().hex[:8]}"
            view.update_user_profile(username=name)
            assert view.get_profile().username == name
            assert service.get_user_by_username(name).id == user.id
            with service.transaction():
                service.update_user_profile(user.id, name="Alice")
                service.touch_last_active(user.id)
            assert view.get_profile().name == "Alice"
