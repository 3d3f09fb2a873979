"""Batch updates of many portfolios: their cache keys have fences only while the statement runs."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import redis

from core import EnhancedDatabaseService
from core.errors import DatabaseUnavailable
from core.records import PortfolioUpdate
from core.service.fence_ahead import MIN_KEYS_FENCED_AHEAD
from core.service.portfolios import portfolio_key
from tests.conftest import Execute, connected
from tests.patience import wait_until

TODAY = datetime.now(UTC).date()
PLAYERS = (
    """INSERT INTO users (username) SELECT 'player' || n FROM generate_series(1, %s) AS n RETURNING id"""
)
TERMINATE = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND wait_event_type = 'Lock'"""


@pytest.fixture
def updates(execute: Execute) -> list[PortfolioUpdate]:
    """Return updates of so many portfolios that a batch sets fences before its statement runs."""
    ids = [row[0] for row in execute(PLAYERS, (MIN_KEYS_FENCED_AHEAD + 10,))]
    execute("INSERT INTO portfolios (user_id, session_date) SELECT id, %s FROM users", (TODAY,))
    return [PortfolioUpdate(each, TODAY, Decimal(11_000), Decimal(1_000)) for each in ids]


@pytest.fixture
def release_row(database_url: str, updates: list[PortfolioUpdate]) -> Iterator[Callable[[], object]]:
    """Lock the first portfolio's row in another transaction, and yield a function that rolls back."""
    with connected(database_url) as run:
        run("BEGIN")
        run("SELECT 1 FROM portfolios WHERE user_id = %s FOR UPDATE", (updates[0].user_id,))
        yield lambda: run("ROLLBACK")


def count_fences(client: redis.Redis, updates: list[PortfolioUpdate]) -> int:
    """Return how many of the portfolios' cache keys have a fence, which stops readers from filling them."""
    names = [portfolio_key(UUID(str(each.user_id)), TODAY) for each in updates]
    stored: Any = client.mget(names)
    return sum(1 for value in stored if value is not None and value[:1] == b"F")


def test_keys_have_fences_until_the_batch_returns(
    service: EnhancedDatabaseService,
    updates: list[PortfolioUpdate],
    release_row: Callable[[], object],
    redis_client: redis.Redis,
) -> None:
    """Every key has a fence while the statement waits, and no key has one after the call."""
    batch = threading.Thread(target=service.batch_update_portfolios, args=(updates,))
    batch.start()
    wait_until(lambda: count_fences(redis_client, updates) == len(updates), "all are fenced")
    before = service.get_current_portfolio(updates[0].user_id)
    release_row()
    batch.join(10)
    assert before.total_value == Decimal(10_000)
    assert count_fences(redis_client, updates) == 0
    assert service.get_current_portfolio(updates[0].user_id).total_value == Decimal(11_000)


def test_a_lost_connection_removes_the_fences(
    service: EnhancedDatabaseService,
    updates: list[PortfolioUpdate],
    release_row: Callable[[], object],
    redis_client: redis.Redis,
    database_url: str,
) -> None:
    """If the statement's connection is lost, nothing was committed and no key keeps a fence."""
    errors: list[Exception] = []

    def write() -> None:
        try:
            service.batch_update_portfolios(updates)
        except DatabaseUnavailable as error:
            errors.append(error)

    batch = threading.Thread(target=write)
    batch.start()
    wait_until(lambda: count_fences(redis_client, updates) == len(updates), "all are fenced")
    with connected(database_url) as run:
        wait_until(lambda: run(TERMINATE)[0][0] == 1, "the statement is ended")
    batch.join(10)
    assert len(errors) == 1
    assert count_fences(redis_client, updates) == 0
    release_row()
    assert service.get_current_portfolio(updates[0].user_id).total_value == Decimal(10_000)
