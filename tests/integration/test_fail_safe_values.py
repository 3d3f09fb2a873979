"""Tests of fail-safe values, which are served while the database gives no answer."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import redis

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import PoolTimeout, QueryTimeout
from core.records import User
from tests.conftest import connected


@pytest.fixture
def short_timeout_service(settings: Settings) -> Iterator[EnhancedDatabaseService]:
    """Yield a service with one connection and short timeouts."""
    limits = {
        "database_connection_limit": 1,
        "database_pool_timeout": 100,
        "database_query_timeout": 500,
    }
    with open_service(settings.model_copy(update=limits)) as service:
        yield service


@contextmanager
def held_connection(service: EnhancedDatabaseService, _: str) -> Iterator[None]:
    """Let another thread hold the only connection of the pool inside the block."""
    is_held, is_over = threading.Event(), threading.Event()

    def hold() -> None:
        with service._database.session("hold"):
            is_held.set()
            is_over.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_held.wait(10)
    yield
    is_over.set()
    holder.join()


@contextmanager
def locked_table(_: EnhancedDatabaseService, url: str) -> Iterator[None]:
    """Lock the table `users` in another session, so that the server cancels statements on it."""
    with connected(url) as run:
        run("BEGIN; LOCK TABLE users")
        yield


@pytest.mark.parametrize(("busy", "error"), [(held_connection, PoolTimeout), (locked_table, QueryTimeout)])
def test_fail_safe_values_are_served_during_a_timeout(
    short_timeout_service: EnhancedDatabaseService,
    alice: User,
    bob: User,
    redis_client: redis.Redis,
    database_url: str,
    busy: Callable[[EnhancedDatabaseService, str], AbstractContextManager[None]],
    error: type[Exception],
) -> None:
    """On a pool or query timeout a value read before is served as stale; other reads raise the error.

    After the outage reads are fresh again.
    """
    service = short_timeout_service
    assert service.get_user_by_id(alice.id) == alice
    redis_client.flushall()
    service._cache._near.clear()
    with busy(service, database_url):
        assert service.get_user_by_id(alice.id) == alice
        assert service.stale_seconds() is not None
        with pytest.raises(error):
            service.get_user_by_id(bob.id)
    assert service.get_user_by_id(bob.id) == bob
    assert service.get_user_by_id(alice.id) == alice
    assert service.stale_seconds() is None
