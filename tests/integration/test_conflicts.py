"""Tests of conflicting writers: the call whose transaction the server cancels is repeated."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import redis
from msgspec.structs import replace

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import QueryTimeout, TransactionConflict, UserNotFound
from core.records import LeaderboardUpdate, PlayerSession, PortfolioUpdate, Tick, User
from core.service.writes import CONFLICT_ATTEMPTS
from tests.conftest import Execute, connected
from tests.patience import wait_until

NOW = datetime.now(UTC)
TODAY = NOW.date()
TABLES = ("users", "portfolios", "quests", "leaderboard_entries", "ticks")
# The trigger counts with a sequence, because a rollback does not undo `nextval`.
CONFLICT = """
    CREATE SEQUENCE conflicts; GRANT USAGE ON SEQUENCE conflicts TO PUBLIC;
    CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF nextval('conflicts') <= {} THEN
            RAISE EXCEPTION 'deadlock detected' USING ERRCODE = 'deadlock_detected';
        END IF;
        RETURN NULL;
    END $$"""
TRIGGER = """
    CREATE TRIGGER conflict AFTER INSERT OR UPDATE OR DELETE ON {}
    FOR EACH STATEMENT EXECUTE PROCEDURE conflict()"""
LOCKED = "SELECT count(*) FROM pg_locks WHERE NOT granted"
CALLS: dict[str, Callable[[EnhancedDatabaseService, User], object]] = {
    "an entry": lambda s, u: s.update_leaderboard_entry(u.id, "b", Decimal(2)).rank == 1,
    "a batch of entries": lambda s, u: (
        s.batch_update_leaderboard("b", (LeaderboardUpdate(each, Decimal(2)) for each in (u.id,))).updated
        == 1
    ),
    "a batch of portfolios": lambda s, u: (
        s.batch_update_portfolios(
            PortfolioUpdate(each, TODAY, Decimal(2), Decimal(1)) for each in (u.id,)
        ).updated
        == 1
    ),
    "the end of a session": lambda s, _: s.close_session(TODAY) == 1,
    "quests that expire": lambda s, _: s.expire_quests() == 0,
    "ticks": lambda s, _: s.insert_market_ticks(iter([Tick("AAPL", NOW, Decimal(1))])) == 1,
    "loaded ticks": lambda s, _: s.load_market_ticks(iter([Tick("AAPL", NOW, Decimal(1))])) == 1,
    "loaded users": lambda s, u: s.load_users(iter([u])) == {u.username: u.id},
    "the end of a user": lambda s, u: [s.delete_user(u.id)],  # type: ignore[func-returns-value]  # a call like the others
}


@pytest.fixture
def raise_deadlocks(service: EnhancedDatabaseService, alice: User, execute: Execute) -> Callable[[int], None]:
    """Return a function that makes the next `number` writing statements fail with a deadlock error."""
    service.get_current_portfolio(alice.id)
    service.update_leaderboard_entry(alice.id, "b", Decimal(1))

    def begin(number: int) -> None:
        execute(CONFLICT.format(number))
        for table in TABLES:
            execute(TRIGGER.format(table))

    return begin


@pytest.mark.parametrize("call", CALLS)
def test_a_deadlock_victim_is_retried(
    service: EnhancedDatabaseService, alice: User, raise_deadlocks: Callable[[int], None], call: str
) -> None:
    """A call that fails with a deadlock is repeated with the same arguments, also if one is an iterator."""
    raise_deadlocks(1)
    assert CALLS[call](service, alice)


def test_repeated_deadlocks_raise_an_error(
    service: EnhancedDatabaseService, alice: User, raise_deadlocks: Callable[[int], None]
) -> None:
    """If each attempt fails with a deadlock, the call raises `TransactionConflict` and writes nothing.

    The cache key does not stay fenced, and the next call works.
    """
    raise_deadlocks(CONFLICT_ATTEMPTS)
    with pytest.raises(TransactionConflict, match="repeat it"):
        service.update_leaderboard_entry(alice.id, "b", Decimal(2))
    assert service.get_leaderboard("b")[0].score == 1
    assert service.update_leaderboard_entry(alice.id, "b", Decimal(3)).score == 3
    assert service.get_leaderboard("b")[0].score == 3


def test_a_deadlock_in_a_transaction_is_not_retried(
    service: EnhancedDatabaseService, alice: User, raise_deadlocks: Callable[[int], None]
) -> None:
    """A deadlock inside `transaction()` raises `TransactionConflict`; the caller has to repeat the block.

    The service cannot repeat one call: the rollback has undone the earlier statements of the transaction.
    """
    raise_deadlocks(1)

    def write() -> None:
        with service.transaction():
            service.update_leaderboard_entry(alice.id, "b", Decimal(2))

    with pytest.raises(TransactionConflict):
        write()
    write()
    assert service.get_leaderboard("b")[0].score == 2


@pytest.fixture
def commit_delete(database_url: str, alice: User) -> Iterator[Callable[[], object]]:
    """Delete alice in another session's open transaction. Yield a function that commits it."""
    with connected(database_url) as run:
        run("BEGIN")
        run("DELETE FROM users WHERE id = %s", (alice.id,))
        yield lambda: run("COMMIT")


def test_a_concurrently_deleted_player_is_missing(
    service: EnhancedDatabaseService,
    alice: User,
    bob: User,
    commit_delete: Callable[[], object],
    execute: Execute,
) -> None:
    """If a player is deleted concurrently, a batch writes its other rows; a single update raises an error."""
    updates = [LeaderboardUpdate(user.id, Decimal(1)) for user in (alice, bob)]
    results: list[object] = []

    def batch() -> None:
        results.append(service.batch_update_leaderboard("b", updates))

    def single() -> None:
        with pytest.raises(UserNotFound):
            service.update_leaderboard_entry(alice.id, "single", Decimal(1))
        results.append("refused")

    threads = [threading.Thread(target=target) for target in (batch, single)]
    for thread in threads:
        thread.start()
    wait_until(lambda: execute(LOCKED) == [(2,)], "both wait for the delete")
    commit_delete()
    for thread in threads:
        thread.join()
    [result] = [each for each in results if each != "refused"]
    assert (result.updated, result.missing) == (1, (PlayerSession(alice.id, TODAY),))  # type: ignore[attr-defined]  # a BatchResult
    assert len(results) == 2
    assert [entry.username for entry in service.get_leaderboard("b")] == ["bob"]


def test_a_cancelled_write_releases_its_cache_key(
    settings: Settings, alice: User, database_url: str, redis_client: redis.Redis
) -> None:
    """When the server has cancelled a write, its cache key is released at once: the next read fills it."""
    with (
        open_service(settings.model_copy(update={"database_query_timeout": 500})) as service,
        connected(database_url) as run,
    ):
        service.get_current_portfolio(alice.id)
        run("BEGIN")
        run("SELECT FROM portfolios FOR UPDATE")
        with pytest.raises(QueryTimeout):
            service.update_portfolio_value(alice.id, None, Decimal(1), Decimal(0))
        service.get_current_portfolio(alice.id)
        stored = redis_client.get(f"portfolio:{alice.id}:{TODAY}")
    assert isinstance(stored, bytes)
    assert stored[:1] == b"V"


def test_the_last_loaded_record_of_a_key_wins(service: EnhancedDatabaseService, alice: User) -> None:
    """If a load contains two records with the same key, the last one is stored, for each kind of record."""
    service.update_leaderboard_entry(alice.id, "b", Decimal(1))
    quest = service.create_quest(alice.id, type="t", title="first", target_value=Decimal(1))
    event = service.create_market_event(type="news", title="first")
    portfolio = service.get_current_portfolio(alice.id)
    service.load_portfolios([replace(portfolio, total_value=Decimal(n)) for n in (1, 2)])
    assert service.get_current_portfolio(alice.id).total_value == 2
    entry = service.get_leaderboard("b")[0]
    service.load_leaderboard_entries([replace(entry, score=Decimal(n)) for n in (1, 2)])
    assert service.get_leaderboard("b")[0].score == 2
    service.load_quests([replace(quest, title=title) for title in ("x", "last")])
    assert [each.title for each in service.get_user_active_quests(alice.id)] == ["last"]
    service.load_market_events([replace(event, title=title) for title in ("x", "last")])
    assert [each.title for each in service.get_recent_market_events()] == ["last"]
    service.load_users([replace(alice, name=name) for name in ("x", "last")])
    assert service.get_user_by_id(alice.id).name == "last"
    times = [NOW, NOW.astimezone(tz=None), NOW - timedelta(days=1)]
    assert service.load_market_ticks(Tick("AAPL", time, Decimal(n)) for n, time in enumerate(times, 1)) == 2
    assert service.get_latest_market_data(["AAPL"])[0].price == 2
