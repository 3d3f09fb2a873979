"""Tests that the docstrings of the service are true: staleness, errors and default sessions.

The tables below are compared with the docstrings, so a new claim has to be added to them. A documented age
has to be the TTL of the key that the call fills. A documented error has to be raised. A result that is
documented as "never older than the last change" is compared with the database after every kind of write.
"""

import inspect
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
import redis
from msgspec.structs import replace

from core import EnhancedDatabaseService, Settings, errors, installation, open_service
from core.cache.timeline_claim import KEY
from core.encryption import Keyring
from core.errors import (
    ConstraintViolated,
    DatabaseError,
    DatabaseUnavailable,
    EchoMarketsError,
    EncryptionKeyMissing,
    LeaderboardEntryNotFound,
    MissingExtra,
    PlayersNotIsolated,
    PoolClosed,
    PortfolioNotFound,
    QuestNotFound,
    TransactionMisused,
    UserNotFound,
)
from core.queries import partitions
from core.records import (
    LeaderboardEntry,
    LeaderboardUpdate,
    MarketEvent,
    PlayerGains,
    Portfolio,
    PortfolioUpdate,
    Position,
    Quest,
    Tick,
    Trade,
    User,
    freeze,
)
from core.service.email_encryption import UserEmails
from core.service.writes import new_id
from tests.conftest import AS_APP, Execute
from tests.game import SESSIONS, play_game

DAY = SESSIONS[-1]
NOON = datetime(2013, 3, 1, 12, tzinfo=UTC)
NOBODY = UUID(int=7)
ONE = Decimal(1)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Return settings without a near cache, so that a read returns what Redis has, as in another process."""
    return settings.model_copy(update={"near_cache_size": 0})


@pytest.fixture
def game(service: EnhancedDatabaseService) -> EnhancedDatabaseService:
    """Return a service with a finished game that has rows for every reading call."""
    play_game(service)
    alice = service.get_user_by_username("alice")
    service.insert_market_ticks(Tick(symbol, NOON, ONE) for symbol in ("AAPL", "IBM"))
    service.create_market_event(type="T", title="Event")
    service.create_quest(
        alice.id, type="T", title="T", target_value=ONE, expires_at=datetime.now(UTC) + timedelta(hours=1)
    )
    service.load_positions([Position(alice.id, DAY, "AAPL", ONE, ONE)])
    service.load_trades([Trade(new_id(), alice.id, DAY, "AAPL", "BUY", ONE, ONE, NOON)])
    service.touch_last_active(alice.id)
    with service.audited(actor="alice", action="clear_cache", target="bob"):
        pass
    with service.acting_as("alice"):
        service.update_user_profile(alice.id, name="Alice Adams")
    return service


def find_player(service: EnhancedDatabaseService, name: str = "alice") -> User:
    """Return a player of the game by the username."""
    return service.get_user_by_username(name)


# A call of each reading method, with arguments that find rows of the game.
READS: dict[str, Callable[[EnhancedDatabaseService, User], object]] = {
    "count_active_players": lambda s, _: s.count_active_players(NOON),
    "count_completed_quests": lambda s, u: s.count_completed_quests([u.id]),
    "count_leaderboard": lambda s, _: s.count_leaderboard("total_value", DAY),
    "count_undated_quests": lambda s, _: s.count_undated_quests(),
    "find_event_effect": lambda s, u: s.find_event_effect(u.id),
    "find_leaderboard_summary": lambda s, _: s.find_leaderboard_summary("total_value", DAY),
    "find_portfolio": lambda s, u: s.find_portfolio(u.id, DAY),
    "get_current_portfolio": lambda s, u: s.get_current_portfolio(u.id, DAY),
    "get_latest_market_data": lambda s, _: (s.get_latest_market_data(), s.get_latest_market_data(["AAPL"])),
    "get_leaderboard": lambda s, _: s.get_leaderboard("total_value", DAY),
    "get_leaderboard_around": lambda s, u: s.get_leaderboard_around(u.id, "total_value", DAY),
    "get_market_returns": lambda s, _: s.get_market_returns(DAY, DAY),
    "get_moved_weeks": lambda s, _: s.get_moved_weeks(),
    "get_period_leaderboard": lambda s, _: s.get_period_leaderboard("total_value", DAY),
    "count_silent_players": lambda s, _: s.count_silent_players(),
    "get_player_report": lambda s, _: s.get_player_report(),
    "list_player_days": lambda s, _: s.list_player_days(),
    "list_silent_players": lambda s, _: s.list_silent_players(),
    "stream_silent_players": lambda s, _: list(s.stream_silent_players()),
    "get_player_gains": lambda s, u: s.get_player_gains(u.id, DAY, DAY),
    "get_portfolio": lambda s, u: s.get_portfolio(u.id, DAY),
    "get_portfolio_history": lambda s, u: s.get_portfolio_history(u.id),
    "get_price_statistics": lambda s, _: s.get_price_statistics(),
    "get_price_history": lambda s, _: s.get_price_history("AAPL", NOON, NOON + timedelta(hours=1), "1h"),
    "get_quest_totals": lambda s, _: s.get_quest_totals(),
    "get_recent_market_events": lambda s, _: s.get_recent_market_events(),
    "get_seen_players": lambda s, _: s.get_seen_players(),
    "get_session_summaries": lambda s, _: s.get_session_summaries(),
    "get_sparklines": lambda s, _: s.get_sparklines(),
    "get_symbol_currencies": lambda s, _: s.get_symbol_currencies(),
    "get_user_active_quests": lambda s, u: s.get_user_active_quests(u.id),
    "get_user_by_id": lambda s, u: s.get_user_by_id(u.id),
    "get_user_by_username": lambda s, u: s.get_user_by_username(u.username),
    "get_user_quests": lambda s, u: s.get_user_quests(u.id),
    "get_user_rank": lambda s, u: s.get_user_rank(u.id, "total_value", DAY),
    "list_audit_changes": lambda s, u: s.list_audit_changes(row_key=u.id),
    "list_audit_events": lambda s, _: s.list_audit_events(),
    "list_expiring_quests": lambda s, _: s.list_expiring_quests(),
    "list_leaderboard": lambda s, _: s.list_leaderboard("total_value", DAY),
    "list_leaderboard_categories": lambda s, _: s.list_leaderboard_categories(DAY),
    "list_leaderboard_dates": lambda s, _: s.list_leaderboard_dates("total_value"),
    "list_leaderboard_entries": lambda s, _: s.list_leaderboard_entries("total_value", DAY),
    "list_market_event_types": lambda s, _: s.list_market_event_types(),
    "list_market_events": lambda s, _: s.list_market_events(),
    "list_prices_at": lambda s, _: s.list_prices_at([("AAPL", NOON)]),
    "list_market_ticks": lambda s, _: s.list_market_ticks("AAPL"),
    "list_player_scores": lambda s, u: s.list_player_scores([u.id], "total_value", [DAY], ranked=True),
    "list_portfolios": lambda s, _: s.list_portfolios(DAY),
    "list_positions": lambda s, u: s.list_positions([u.id], DAY),
    "list_quests": lambda s, _: s.list_quests(),
    "list_session_dates": lambda s, _: s.list_session_dates(),
    "list_quest_outcomes": lambda s, _: s.list_quest_outcomes(),
    "get_completion_times": lambda s, _: s.get_completion_times(),
    "get_quest_returns": lambda s, _: s.get_quest_returns(),
    "list_stuck_quests": lambda s, _: s.list_stuck_quests(),
    "list_slowest_statements": lambda s, _: s.list_slowest_statements(),
    "list_table_sizes": lambda s, _: s.list_table_sizes(),
    "list_trades": lambda s, u: s.list_trades([u.id], DAY),
    "list_unused_indexes": lambda s, _: s.list_unused_indexes(),
    "list_users": lambda s, _: s.list_users(),
    "list_encryption_keys": lambda s, _: s.list_encryption_keys(),
    "list_users_by_email": lambda s, _: s.list_users_by_email("alice@example.com"),
    "search_users": lambda s, _: s.search_users("a"),
    "stream_audit_changes": lambda s, _: list(s.stream_audit_changes()),
    "stream_audit_events": lambda s, _: list(s.stream_audit_events()),
    "stream_leaderboard": lambda s, _: list(s.stream_leaderboard("total_value", DAY)),
    "stream_market_events": lambda s, _: list(s.stream_market_events()),
    "stream_market_ticks": lambda s, _: list(s.stream_market_ticks("AAPL")),
    "stream_portfolios": lambda s, _: list(s.stream_portfolios(DAY)),
    "stream_positions": lambda s, _: list(s.stream_positions(DAY)),
    "stream_quests": lambda s, _: list(s.stream_quests()),
    "stream_trades": lambda s, _: list(s.stream_trades(DAY)),
    "stream_users": lambda s, _: list(s.stream_users()),
}


# Prefixes of keys that no read fills: version keys, and the claim of the database that uses the cache.
UNCOUNTED = (b"version:", KEY.encode())


def read_docstring(name: str) -> str:
    """Return the docstring of a public call as one line."""
    return " ".join((inspect.getdoc(getattr(EnhancedDatabaseService, name)) or "").split())


def list_calls() -> list[str]:
    """Return the names of the public calls."""
    return [name for name, _ in inspect.getmembers(EnhancedDatabaseService, callable) if name[0] != "_"]


def test_every_call_that_reads_is_tried() -> None:
    """`READS` lists every call whose name begins with a reading verb."""
    assert sorted(READS) == sorted(
        name
        for name in list_calls()
        if name.split("_")[0] in {"count", "find", "get", "list", "search", "stream"}
    )


# -- staleness --------------------------------------------------------------------------


@pytest.mark.parametrize("name", READS)
def test_the_ttl_of_a_key_is_the_documented_age(
    game: EnhancedDatabaseService, redis_client: redis.Redis, name: str
) -> None:
    """Each key that a call fills has a TTL that its docstring names. An uncached call fills no key."""
    alice = find_player(game)
    redis_client.flushall()
    READS[name](game, alice)
    lives = {redis_client.ttl(key) for key in redis_client.scan_iter() if not key.startswith(UNCOUNTED)}
    words = read_docstring(name)
    ages = [
        int(age) for age in re.findall(r"(?:at most|up to|others|that of) (\d+) s\b", words, re.IGNORECASE)
    ]
    assert bool(lives) == bool(ages), (lives, words)
    assert lives or re.search(
        "uncached|not cached|as of (its|their) time|its own snapshot|estimated|statistics|statements",
        words,
        re.IGNORECASE,
    ), words
    for life in lives:
        assert any(0.85 * age <= life <= age for age in ages), (life, ages)


def test_a_part_of_a_cached_list_is_uncached(
    game: EnhancedDatabaseService, redis_client: redis.Redis
) -> None:
    """Reads of a later leaderboard page or of the sparklines of some symbols fill no cache key."""
    redis_client.flushall()
    game.get_leaderboard("total_value", DAY, 2, offset=1)
    game.get_sparklines(["AAPL"])
    assert [key for key in redis_client.scan_iter() if not key.startswith(UNCOUNTED)] == []


# -- never older than the last change ---------------------------------------------------


def make_event(title: str) -> MarketEvent:
    """Return a market event to load."""
    return MarketEvent(new_id(), "LOADED", title, None, (), None, "NEUTRAL", NOON)


def _change_in_transaction(service: EnhancedDatabaseService, user: User) -> None:
    with service.transaction():
        service.update_user_profile(user.id, name="In a transaction")
        service.update_leaderboard_entry(user.id, "total_value", Decimal(77), DAY)


# A call of each writing method. The order matters: each call has to change rows.
WRITES: dict[str, Callable[[EnhancedDatabaseService, User], object]] = {
    "update_user_profile": lambda s, u: s.update_user_profile(u.id, username="alice2", name="A"),
    "reencrypt_users": lambda s, _: s.reencrypt_users(),
    "touch_last_active": lambda s, u: s.touch_last_active(u.id),
    "batch_touch_last_active": lambda s, u: s.batch_touch_last_active({u.id: datetime.now(UTC)}),
    "update_portfolio_value": lambda s, u: s.update_portfolio_value(u.id, DAY, ONE, ONE),
    "batch_update_portfolios": lambda s, u: s.batch_update_portfolios(
        [PortfolioUpdate(u.id, DAY, Decimal(2), ONE)]
    ),
    "insert_market_tick": lambda s, _: s.insert_market_tick("AAPL", Decimal(3)),
    "insert_market_ticks": lambda s, _: s.insert_market_ticks([Tick("NEW", NOON, ONE)]),
    "update_symbol_currencies": lambda s, _: s.update_symbol_currencies({"AAPL": "USD"}),
    "update_moved_weeks": lambda s, _: s.update_moved_weeks({"AAPL": 2}),
    "update_leaderboard_entry": lambda s, u: s.update_leaderboard_entry(u.id, "total_value", ONE, DAY),
    "batch_update_leaderboard": lambda s, u: s.batch_update_leaderboard(
        "total_value", [LeaderboardUpdate(u.id, Decimal(99))], DAY
    ),
    "close_session": lambda s, _: s.close_session(DAY),
    "create_quest": lambda s, u: s.create_quest(u.id, type="T", title="New", target_value=ONE),
    "update_quest_progress": lambda s, u: s.update_quest_progress(s.get_user_active_quests(u.id)[-1].id, ONE),
    "expire_quests": lambda s, _: _expire(s),
    "create_market_event": lambda s, _: s.create_market_event(type="CREATED", title="T"),
    "delete_market_event": lambda s, _: s.delete_market_event(s.list_market_events(1)[0].id),
    "load_users": lambda s, u: s.load_users([replace(u, username="alice2", name="Loaded")]),
    "load_market_ticks": lambda s, _: s.load_market_ticks([Tick("AAPL", datetime.now(UTC), Decimal(4))]),
    "load_portfolios": lambda s, u: s.load_portfolios(
        [replace(s.get_portfolio(u.id, DAY), total_value=Decimal(5))]
    ),
    "load_positions": lambda s, u: s.load_positions([Position(u.id, DAY, "IBM", ONE, ONE)]),
    "load_trades": lambda s, u: s.load_trades([Trade(new_id(), u.id, DAY, "IBM", "BUY", ONE, ONE, NOON)]),
    "load_leaderboard_entries": lambda s, u: s.load_leaderboard_entries(
        [replace(s.get_user_rank(u.id, "total_value", DAY), score=Decimal(6))]
    ),
    "load_quests": lambda s, u: s.load_quests([replace(s.get_user_quests(u.id)[-1], title="Loaded")]),
    "load_market_events": lambda s, _: s.load_market_events([make_event("Loaded")]),
    "transaction": _change_in_transaction,
    "create_user": lambda s, _: s.create_user(username="erin"),
    "get_current_portfolio": lambda s, _: s.get_current_portfolio(find_player(s, "erin").id, DAY),
    "maintain_partitions": lambda s, _: s.maintain_partitions(keep=timedelta(days=36_000)),
    "delete_market_ticks": lambda s, _: s.delete_market_ticks("AAPL"),
    "delete_user": lambda s, _: s.delete_user(find_player(s, "bob").id),
}


def _expire(service: EnhancedDatabaseService) -> None:
    service._clock = lambda: datetime.now(UTC) + timedelta(hours=2)
    assert service.expire_quests() == 1


# Calls that change no row, or only rows that no cached call returns.
NO_CHANGE = {
    "acting_as", "as_user", "at_least", "audited", "cache_stats", "clear_market_data_cache",
    "clear_user_cache", "close", "consistency_token", "health", "invalidate_reports", "maintain_audit_log",
    "pool_stats", "record_audit_event", "replica_stats", "seal_audit_log", "stale_seconds", "to_frame",
    "to_json", "verify_audit_log", "warm_cache",
}  # fmt: skip  # several names a line, because the list is long
CURRENT = [name for name in READS if "ever older than the last" in read_docstring(name)]


def test_every_call_that_writes_is_tried() -> None:
    """Each public call is in `READS`, `WRITES` or `NO_CHANGE`, so a new call has to be added."""
    assert set(list_calls()) == {*READS, *WRITES, *NO_CHANGE}
    assert CURRENT


def test_no_answer_is_older_than_the_last_change(game: EnhancedDatabaseService, settings: Settings) -> None:
    """After each write, every cached result is equal to the result of a service without a cache.

    The reads use the writing service and a second one, which stands for another process: it shares the
    database and Redis with the first one, but no memory.
    """
    alice = find_player(game)
    bare = settings.model_copy(update={"enable_redis_cache": False})
    with open_service(settings) as reader, open_service(bare) as uncached:
        for write, change in WRITES.items():
            for name in CURRENT:
                # read twice: the first read fills the key, the second one finds a lease that was left behind
                READS[name](reader, alice)
                READS[name](reader, alice)
            change(game, alice)
            for name in CURRENT:
                assert READS[name](reader, alice) == READS[name](uncached, alice), (write, name)
                assert READS[name](game, alice) == READS[name](uncached, alice), (write, name)


# -- errors -----------------------------------------------------------------------------


def _lock_ticks_and_maintain(service: Any, execute: Execute) -> None:
    with service.transaction():
        partitions.lock_ticks(service._database)
        _raise_in_thread(lambda: service.maintain_partitions(months_ahead=20))


def _write_and_maintain_the_log(service: Any, execute: Execute) -> None:
    with service.transaction():
        service.record_audit_event(actor="alice", action="sign_in", target="dashboard")
        _raise_in_thread(lambda: service.maintain_audit_log(months_ahead=20))


def _raise_in_thread(call: Callable[[], object]) -> None:
    found: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except DatabaseError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    raise found[0]


def _use_a_left_block(service: Any, _: Execute) -> None:
    block = service.transaction()
    block.__enter__()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(block.__exit__, None, None, None).result()


def _lose_the_connection(service: Any, execute: Execute) -> None:
    with service.transaction():
        service.create_user(username="lost")
        execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'"
        )
        service.create_user(username="lost2")


def _read_closed(service: Any, _: Execute) -> None:
    service.close()
    service.get_user_by_id(NOBODY)


def _ask_a_standby(service: Any, _: Execute) -> None:
    with patch("core.database.read_consistency.read_token", return_value=None):
        service.consistency_token()


def _use_a_missing_extra(service: Any, _: Execute) -> None:
    with patch.dict(installation.MODULES, {"frames": ("no_such_module",)}):
        service.to_frame([])


def _without_key(service: Any) -> Any:
    service._emails = UserEmails(Keyring())
    return service


# For each call and documented error: a function in which the call raises the error.
RAISED: dict[tuple[str, type[EchoMarketsError]], Callable[[Any, Execute], object]] = {
    ("close", PoolClosed): _read_closed,
    ("consistency_token", DatabaseUnavailable): _ask_a_standby,
    ("create_quest", UserNotFound): lambda s, _: s.create_quest(NOBODY, type="T", title="T", target_value=1),
    ("create_user", EncryptionKeyMissing): lambda s, _: _without_key(s).create_user(
        username="eve", email="eve@example.com"
    ),
    ("delete_user", UserNotFound): lambda s, _: s.delete_user(NOBODY),
    ("get_current_portfolio", UserNotFound): lambda s, _: s.get_current_portfolio(NOBODY, DAY),
    ("get_leaderboard_around", LeaderboardEntryNotFound): lambda s, _: s.get_leaderboard_around(NOBODY, "c"),
    ("get_portfolio", PortfolioNotFound): lambda s, _: s.get_portfolio(NOBODY),
    ("get_user_by_id", UserNotFound): lambda s, _: s.get_user_by_id(NOBODY),
    ("get_user_by_username", UserNotFound): lambda s, _: s.get_user_by_username("Alice"),
    ("get_user_rank", LeaderboardEntryNotFound): lambda s, _: s.get_user_rank(NOBODY, "total_value", DAY),
    ("load_leaderboard_entries", ConstraintViolated): lambda s, _: s.load_leaderboard_entries(
        [LeaderboardEntry(new_id(), NOBODY, "", DAY, "c", ONE, 1, freeze({}), NOON)]
    ),
    ("load_portfolios", ConstraintViolated): lambda s, _: s.load_portfolios(
        [Portfolio(new_id(), NOBODY, DAY, ONE, ONE, ONE, ONE, ONE, NOON, NOON)]
    ),
    ("load_positions", ConstraintViolated): lambda s, _: s.load_positions(
        [Position(NOBODY, DAY, "A", ONE, ONE)]
    ),
    ("load_quests", ConstraintViolated): lambda s, _: s.load_quests(
        [Quest(new_id(), NOBODY, "T", "T", None, ONE, ONE, "ACTIVE", None, None, NOON, None)]
    ),
    ("load_trades", ConstraintViolated): lambda s, _: s.load_trades(
        [Trade(new_id(), NOBODY, DAY, "A", "BUY", ONE, ONE, NOON)]
    ),
    ("list_users_by_email", EncryptionKeyMissing): lambda s, _: _without_key(s).list_users_by_email("a@b.c"),
    ("load_users", EncryptionKeyMissing): lambda s, _: _without_key(s).load_users(
        [replace(find_player(s), email="a@b.c")]
    ),
    ("load_users", ConstraintViolated): lambda s, _: s.load_users(
        [replace(find_player(s), username="other")]
    ),
    ("as_user", PlayersNotIsolated): lambda s, _: s.as_user(NOBODY),
    ("maintain_audit_log", DatabaseError): _write_and_maintain_the_log,
    ("maintain_partitions", DatabaseError): _lock_ticks_and_maintain,
    ("reencrypt_users", EncryptionKeyMissing): lambda s, _: _without_key(s).reencrypt_users(),
    ("to_frame", MissingExtra): _use_a_missing_extra,
    ("touch_last_active", UserNotFound): lambda s, _: s.touch_last_active(NOBODY),
    ("transaction", DatabaseUnavailable): _lose_the_connection,
    ("transaction", TransactionMisused): _use_a_left_block,
    ("update_leaderboard_entry", UserNotFound): lambda s, _: s.update_leaderboard_entry(NOBODY, "c", 1),
    ("update_portfolio_value", PortfolioNotFound): lambda s, _: s.update_portfolio_value(NOBODY, DAY, 1, 0),
    ("update_quest_progress", QuestNotFound): lambda s, _: s.update_quest_progress(NOBODY, 1),
    ("update_user_profile", EncryptionKeyMissing): lambda s, _: _without_key(s).update_user_profile(
        find_player(s).id, email="a@b.c"
    ),
    ("update_user_profile", UserNotFound): lambda s, _: s.update_user_profile(NOBODY, name="A"),
}
# The `DatabaseError` of a deadlock is tested in test_conflicts, and `InvalidInput` in test_arguments.
ELSEWHERE = {("transaction", DatabaseError)}


def list_documented_errors(name: str) -> set[type[EchoMarketsError]]:
    """Return the errors that a docstring names, without `InvalidInput`."""
    names = set(re.findall(r"`(\w+)`", read_docstring(name))) - {"InvalidInput"}
    return {getattr(errors, found) for found in names if isinstance(getattr(errors, found, None), type)}


def test_every_documented_error_is_tried() -> None:
    """`RAISED` contains exactly the documented errors of each call, without those in `ELSEWHERE`."""
    documented = {(name, error) for name in list_calls() for error in list_documented_errors(name)}
    assert documented - ELSEWHERE == set(RAISED)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "error"), RAISED, ids=lambda value: getattr(value, "__name__", value))
def test_a_documented_error_is_raised(
    game: EnhancedDatabaseService, execute: Execute, name: str, error: type[EchoMarketsError]
) -> None:
    """The call raises the documented error or a subclass, and the message contains a remedy."""
    skip_with_roles(name)
    with pytest.raises(error) as caught:
        RAISED[name, error](game, execute)
    assert re.search(r"[;:] \w+|_", str(caught.value)), caught.value


def skip_with_roles(name: str) -> None:
    """Skip the test of `as_user` if the server has the database roles: then the call does not fail."""
    if AS_APP and name == "as_user":
        pytest.skip("a player's view works with the database roles")


def list_calls_with_ids() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each call that takes an id, with an unknown id and other arguments that are valid."""
    right: dict[str, Any] = {
        "category": "c", "session_date": DAY, "session_dates": [DAY], "score": 1, "total_value": 1,
        "day_change": 0, "progress": 1, "type": "T", "title": "T", "target_value": 1, "changes": "A",
        "start": DAY, "end": DAY,
    }  # fmt: skip  # several arguments a line, because the list is long
    for name in list_calls():
        parameters = inspect.signature(getattr(EnhancedDatabaseService, name)).parameters
        ids = [each for each in parameters if each in {"user_id", "quest_id", "event_id", "user_ids"}]
        if ids:
            required = [p.name for p in parameters.values() if p.default is p.empty and p.name != "self"]
            arguments = {("name" if key == "changes" else key): right.get(key) for key in required}
            yield name, arguments | {ids[0]: [NOBODY] if ids[0] == "user_ids" else NOBODY}


@pytest.mark.parametrize(("name", "arguments"), [*list_calls_with_ids()])
def test_an_unknown_id_raises_the_documented_error(
    game: EnhancedDatabaseService, name: str, arguments: dict[str, Any]
) -> None:
    """A call with an unknown id raises its documented error. If none is documented, the result is empty."""
    skip_with_roles(name)
    if documented := list_documented_errors(name):
        with pytest.raises(tuple(documented)):
            getattr(game, name)(**arguments)
    else:
        answer = getattr(game, name)(**arguments)
        assert not answer or answer in [{NOBODY: 0}, PlayerGains(0, Decimal(0), ())]


# -- sessions ---------------------------------------------------------------------------


def test_every_call_with_a_default_session_says_which() -> None:
    """Each docstring says that `session_date` None means today's session."""
    for name in list_calls():
        parameter = inspect.signature(getattr(EnhancedDatabaseService, name)).parameters.get("session_date")
        if parameter is not None and parameter.default is None:
            assert re.search(r"\(None: today's\b|None is today's", read_docstring(name)), name


def test_none_is_the_session_of_today_in_utc(service: EnhancedDatabaseService) -> None:
    """At 23:30 UTC, None is the session of that UTC date for writes and reads.

    Another time zone may already have the next date.
    """
    service._clock = lambda: datetime(2013, 3, 1, 23, 30, tzinfo=UTC)
    user = service.create_user(username="alice")
    assert service.get_current_portfolio(user.id).session_date == DAY
    service.update_leaderboard_entry(user.id, "c", ONE)
    service.batch_update_leaderboard("d", [LeaderboardUpdate(user.id, ONE)])
    assert service.update_portfolio_value(user.id, None, ONE, ONE).session_date == DAY
    service.load_positions([Position(user.id, DAY, "A", ONE, ONE)])
    service.load_trades([Trade(new_id(), user.id, DAY, "A", "BUY", ONE, ONE, NOON)])
    assert service.list_leaderboard_categories() == ("c", "d")
    for answer in (
        service.find_portfolio(user.id),
        service.get_portfolio(user.id),
        service.get_leaderboard("c")[0],
        service.get_user_rank(user.id, "c"),
        service.get_leaderboard_around(user.id, "c")[0],
        service.list_leaderboard("c")[0],
        service.list_leaderboard_entries("c")[0],
        next(service.stream_leaderboard("c")),
        service.find_leaderboard_summary("c"),
        service.list_portfolios()[0],
        next(service.stream_portfolios()),
        service.list_positions([user.id])[0],
        next(service.stream_positions()),
        service.list_trades([user.id])[0],
        next(service.stream_trades()),
    ):
        assert getattr(answer, "session_date", None) == DAY
    assert service.count_leaderboard("c") == 1
    assert service.get_period_leaderboard("c").days == (DAY,)
    assert list(islice(service.stream_users(), 2)) == [service.get_user_by_id(user.id)]
