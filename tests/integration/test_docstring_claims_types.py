"""Tests of what docstrings promise about records, errors, settings and `open_service`."""

import inspect
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest.mock import patch
from uuid import UUID

import msgspec
import pytest
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, errors, installation, open_service, records
from core.errors import EchoMarketsError
from core.records import (
    AuditEvent,
    BatchResult,
    LeaderboardUpdate,
    PlayerSession,
    PortfolioUpdate,
    Quest,
    Record,
    Tick,
    Trade,
    User,
    freeze,
)
from core.records.record import KEPT
from core.service.writes import new_id
from core.stack.ports import find_free_port
from tests.conftest import Execute, connected
from tests.game import SESSIONS, play_game
from tests.integration.test_docstring_claims import READS

DAY = SESSIONS[-1]
NOON = datetime(2013, 3, 1, 12, tzinfo=UTC)
NOBODY = UUID(int=7)
ONE = Decimal(1)


# -- records ----------------------------------------------------------------------------


def list_records(answer: Any) -> Iterator[Record]:
    """Yield every record of a result, also nested ones."""
    if isinstance(answer, Record):
        yield answer
        answer = [getattr(answer, name) for name in answer.__struct_fields__]
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list | tuple):
        for item in answer:
            yield from list_records(item)


def list_times(record: Record) -> list[datetime]:
    """Return the datetime values of a record."""
    return [value for value in dict(record).values() if isinstance(value, datetime)]


def test_every_value_has_the_type_that_its_record_declares(service: EnhancedDatabaseService) -> None:
    """Values have the declared types, from the database and from the cache. Times are in UTC."""
    play_game(service)
    alice = service.get_user_by_username("alice")
    service.insert_market_ticks(Tick("AAPL", NOON + timedelta(hours=n), ONE) for n in range(3))
    event = service.create_market_event(type="T", title="T", impact_magnitude=ONE, affected_symbols=["AAPL"])
    done = service.create_quest(alice.id, type="T", title="T", target_value=ONE)
    service.update_quest_progress(done.id, ONE)
    today = datetime.now(UTC).date()
    # one session of today and one of 20 days ago with an active quest, for the returns after quests
    service.get_current_portfolio(alice.id, today)
    service.get_current_portfolio(alice.id, today - timedelta(days=20))
    old = datetime.now(UTC) - timedelta(days=21)
    service.load_quests(
        [Quest(new_id(), alice.id, "T", "T", None, ONE, ONE * 0, "ACTIVE", None, None, old, None)]
    )
    service.create_quest(
        alice.id, type="T", title="T", target_value=ONE, expires_at=datetime.now(UTC) + timedelta(days=1)
    )
    with service.audited(actor="a", action="warm_cache", target="t"):
        pass
    service.touch_last_active(alice.id)
    with service.acting_as("a"):
        service.update_portfolio_value(alice.id, today, ONE, ONE)
    run = [service.health(), service.pool_stats(), service.cache_stats(), service.maintain_partitions()]
    run += [service.seal_audit_log(), service.verify_audit_log()]
    run.append(service.reencrypt_users())
    batch = service.batch_update_portfolios([PortfolioUpdate(NOBODY, DAY, ONE, ONE)])
    seen: set[type] = set()
    for _ in range(2):
        answers = [read(service, alice) for read in READS.values()]
        answers.append(service.find_event_effect(event.id))
        for record in list_records([*answers, *run, batch]):
            kind = type(record)
            again = msgspec.convert(
                record.asdict(), kind, builtin_types=KEPT, dec_hook=lambda _, value: freeze(value)
            )
            assert again.asdict() == record.asdict()
            assert all(time.tzinfo is UTC for time in list_times(record)), record
            seen.add(kind)
    # records that no call above returns: arguments of calls, and results that this game or server lacks
    others = {
        "AuditBreak",
        "LeaderboardUpdate",
        "PortfolioUpdate",
        "StatementFigures",
        "Record",
        "ReplicaStats",
        "Position",
        "SymbolGain",
        "Trade",
    }
    named = {getattr(records, name) for name in records.__all__}
    assert {kind.__name__ for kind in named if isinstance(kind, type) and kind not in seen} == others


@pytest.mark.parametrize("name", [n for n in records.__all__ if isinstance(getattr(records, n), type)])
def test_a_record_cannot_be_changed(name: str) -> None:
    """Each record class is frozen and has a docstring."""
    kind = getattr(records, name)
    assert inspect.getdoc(kind)
    assert kind.__struct_config__.frozen


def test_a_batch_returns_the_keys_without_a_row(service: EnhancedDatabaseService, alice: User) -> None:
    """A batch returns the number of written rows, and the key of each update that wrote no row."""
    opened = service.get_current_portfolio(alice.id, DAY)
    before = DAY - timedelta(days=1)
    updates = [
        PortfolioUpdate(alice.id, DAY, ONE, ONE),
        PortfolioUpdate(alice.id, before, ONE, ONE),
        PortfolioUpdate(str(NOBODY), DAY, ONE, ONE),
    ]
    missing = {PlayerSession(alice.id, before), PlayerSession(NOBODY, DAY)}
    result = service.batch_update_portfolios(updates)
    assert (result.updated, set(result.missing)) == (1, missing)
    # an update without `current_cash` keeps the cash
    assert service.get_portfolio(alice.id, DAY).current_cash == opened.current_cash
    scores = [LeaderboardUpdate(alice.id, ONE), LeaderboardUpdate(NOBODY, ONE)]
    assert service.batch_update_leaderboard("c", scores, DAY) == BatchResult(1, (PlayerSession(NOBODY, DAY),))


def test_a_session_summary_counts_players_and_returns(
    service: EnhancedDatabaseService, alice: User, bob: User, execute: Execute
) -> None:
    """Players count from the day on which they joined. Without a leaderboard the returns are None."""
    execute("UPDATE users SET created_at = %s WHERE id = %s", (NOON, alice.id))
    execute("UPDATE users SET created_at = %s WHERE id = %s", (NOON + timedelta(days=1), bob.id))
    service.update_leaderboard_entry(alice.id, "daily_returns", Decimal("1.5"), DAY)
    service.get_current_portfolio(alice.id, DAY)
    for hour, quantity in ((1, 5), (2, 3)):
        time = NOON + timedelta(hours=hour)
        service.load_trades([Trade(new_id(), alice.id, DAY, "AAPL", "BUY", ONE * quantity, ONE, time)])
    for day in (NOON, NOON + timedelta(hours=3), NOON + timedelta(days=3), None):
        execute(
            "INSERT INTO quests (user_id, type, title, target_value, status, created_at, completed_at)"
            " VALUES (%s, 'T', 'T', 1, 'COMPLETED', '2013-01-01', %s)",
            (alice.id, day),
        )
    service.update_leaderboard_entry(bob.id, "other", ONE, DAY + timedelta(days=1))
    later, first = service.get_session_summaries()
    assert (first.signed_up, first.played, first.traded, first.players) == (1, 1, 1, 1)
    assert (first.best_return, first.quests_completed) == (ONE * 3 / 2, 2)
    assert (later.signed_up, later.played, later.traded, later.players) == (2, 0, 0, 0)
    assert later.best_return is later.median_return is None
    assert (later.quests_completed, service.count_undated_quests()) == (0, 1)


def test_a_running_action_has_no_end_time(service: EnhancedDatabaseService) -> None:
    """A running action has no end time. A failed action has an end time and the error."""
    with pytest.raises(KeyError), service.audited(actor="a", action="warm_cache", target="t"):
        [begun] = service.list_audit_events()
        assert (begun.outcome, begun.finished_at, begun.detail) == ("started", None, None)
        raise KeyError("reason")
    [ended] = service.list_audit_events()
    assert isinstance(ended, AuditEvent)
    assert (ended.outcome, ended.detail) == ("failed", "KeyError: 'reason'")
    assert ended.finished_at is not None


# -- errors -----------------------------------------------------------------------------


def _exhaust_pool(settings: Settings, _: Execute) -> None:
    narrow = {"database_connection_limit": 1, "database_pool_timeout": 200}
    with open_service(settings.model_copy(update=narrow)) as service:
        inside, done = threading.Event(), threading.Event()

        def hold() -> None:
            with service.transaction():
                service.search_users("a")
                inside.set()
                done.wait(30)

        thread = threading.Thread(target=hold)
        thread.start()
        inside.wait(30)
        try:
            service.search_users("a")
        finally:
            done.set()
            thread.join(30)


def _wait_for_a_lock(settings: Settings, _: Execute) -> None:
    with (
        open_service(settings.model_copy(update={"database_query_timeout": 300})) as service,
        connected(settings.database_url.get_secret_value()) as other,
    ):
        other("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        try:
            service.search_users("a")
        finally:
            other("ROLLBACK")


def _connect_to_nobody(settings: Settings, _: Execute) -> None:
    url = SecretStr(f"postgresql://nobody@127.0.0.1:{find_free_port()}/none")
    with open_service(settings.model_copy(update={"database_url": url})) as service:
        service.search_users("a")


def _close_first(settings: Settings, _: Execute) -> None:
    service = open_service(settings)
    service.close()
    service.search_users("a")


def _with_service(call: Callable[[Any], object]) -> Callable[[Settings, Execute], None]:
    def run(settings: Settings, _: Execute) -> None:
        with open_service(settings) as service:
            call(service)

    return run


def _drop_table(settings: Settings, execute: Execute) -> None:
    with open_service(settings) as service:
        execute("DROP TABLE market_events")
        service.get_recent_market_events()


def _lose_connection(settings: Settings, execute: Execute) -> None:
    with open_service(settings) as service, service.transaction():
        service.search_users("a")
        execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        service.search_users("a")


def _leave_elsewhere(settings: Settings, _: Execute) -> None:
    with open_service(settings) as service:
        block = service.transaction()
        block.__enter__()
        found: list[BaseException] = []

        def leave() -> None:
            try:
                block.__exit__(None, None, None)
            except EchoMarketsError as error:
                found.append(error)

        thread = threading.Thread(target=leave)
        thread.start()
        thread.join(30)
    raise found[0]


def _use_a_missing_extra(settings: Settings, _: Execute) -> None:
    with patch.dict(installation.MODULES, {"frames": ("no_such_module",)}), open_service(settings) as service:
        service.to_frame([])


def _use_no_key(settings: Settings, _: Execute) -> None:
    with open_service(settings.model_copy(update={"encryption_keys": None})) as service:
        service.create_user(username="alice", email="alice@example.com")


TOO_LONG = Decimal("1." + "1" * 17_000)
# For each error: a function that raises it. Errors of other test files are in `ELSEWHERE`.
MET: dict[type[EchoMarketsError], Callable[[Settings, Execute], object]] = {
    errors.InvalidInput: _with_service(lambda s: s.search_users(5)),
    errors.SettingsError: lambda _, __: Settings(database_url=SecretStr("mysql://x")),
    errors.EncryptionKeyMissing: _use_no_key,
    errors.UserNotFound: _with_service(lambda s: s.get_user_by_id(NOBODY)),
    errors.PortfolioNotFound: _with_service(lambda s: s.get_portfolio(NOBODY)),
    errors.QuestNotFound: _with_service(lambda s: s.update_quest_progress(NOBODY, 1)),
    errors.LeaderboardEntryNotFound: _with_service(lambda s: s.get_user_rank(NOBODY, "c")),
    errors.PoolTimeout: _exhaust_pool,
    errors.PoolClosed: _close_first,
    errors.DatabaseUnavailable: _lose_connection,
    errors.ConnectFailed: _connect_to_nobody,
    errors.QueryTimeout: _wait_for_a_lock,
    errors.DatabaseError: _drop_table,
    errors.ConstraintViolated: _with_service(
        lambda s: s.load_quests(
            [Quest(new_id(), NOBODY, "T", "T", None, ONE, ONE, "ACTIVE", None, None, NOON, None)]
        )
    ),
    errors.NumberRefused: _with_service(lambda s: s.insert_market_tick("A", TOO_LONG)),
    errors.PlayersNotIsolated: _with_service(lambda s: s.as_user(NOBODY)),
    errors.TransactionMisused: _leave_elsewhere,
    errors.MissingExtra: _use_a_missing_extra,
}
ELSEWHERE = {
    "ConnectionsExhausted": "tests/unit/test_pool_limits.py",
    "ServerHung": "tests/faults/test_postgres_faults.py",
    "TransactionConflict": "tests/integration/test_conflicts.py",
    "MigrationFailed": "tests/integration/test_migrations.py",
    "NotSupported": "tests/matrix/test_citus.py",
    "PriceFileError": "tests/unit/test_prices.py",
    "RowsWouldBeLost": "tests",
    "StackError": "tests/integration/test_embedded_servers.py",
}


def test_every_error_can_be_met() -> None:
    """Each error class is in `MET` or `ELSEWHERE`, so a new error needs a test."""
    named = {
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, EchoMarketsError)
    }
    assert {each.__name__ for each in named} == {each.__name__ for each in MET} | set(ELSEWHERE) | {
        "EchoMarketsError"
    }


@pytest.mark.parametrize("kind", MET, ids=lambda kind: kind.__name__)
def test_an_error_has_its_type_and_a_short_message(
    settings: Settings, execute: Execute, kind: type[EchoMarketsError]
) -> None:
    """Each function in `MET` raises exactly its error type, with a message under 500 characters."""
    with pytest.raises(EchoMarketsError) as caught:
        MET[kind](settings, execute)
    assert type(caught.value) is kind
    words = str(caught.value)
    assert "; " in words or ": " in words, words
    assert len(words) < 500
    assert words[0].islower() or words.split(maxsplit=1)[0].isupper(), words


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.InvalidInput, ValueError),
        (errors.SettingsError, ValueError),
        (errors.UserNotFound, LookupError),
        (errors.PortfolioNotFound, LookupError),
        (errors.QuestNotFound, LookupError),
        (errors.LeaderboardEntryNotFound, LookupError),
        (errors.PoolTimeout, TimeoutError),
        (errors.QueryTimeout, TimeoutError),
    ],
)
def test_an_error_has_a_built_in_base_class(kind: type[Exception], builtin: type[Exception]) -> None:
    """A program can catch the error as a built-in exception such as `ValueError`."""
    assert issubclass(kind, builtin)


# -- open_service -----------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Yield a socket that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        yield server


@pytest.mark.parametrize("near_cache_size", [0, 100])
def test_opening_waits_for_no_server(listener: socket.socket, near_cache_size: int) -> None:
    """`open_service` does not connect to PostgreSQL. Only the near cache's feed connects to Redis."""
    port = listener.getsockname()[1]
    settings = Settings(
        database_url=SecretStr(f"postgresql://nobody@127.0.0.1:{port}/none"),
        redis_url=SecretStr(f"redis://127.0.0.1:{port}/0"),
        near_cache_size=near_cache_size,
    )
    heard: list[bytes] = []
    with open_service(settings) as service:
        assert service.pool_stats().pool_size == 0
        try:
            while True:
                connection, _ = listener.accept()
                with connection:
                    heard.append(connection.recv(100))
        except TimeoutError:
            pass
    assert bool(heard) == bool(near_cache_size)
    assert all(first.startswith(b"*") for first in heard), "RESP, which is Redis's"


def test_a_service_without_settings_reads_the_environment(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without arguments `open_service` reads the environment, or raises an error if DATABASE_URL is missing.

    The role of the service is in the application name of its sessions.
    """
    with pytest.raises(errors.SettingsError, match="DATABASE_URL is not set"):
        open_service()
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    monkeypatch.setenv("ENABLE_REDIS_CACHE", "false")
    with open_service(role="my-api") as service, connected(settings.database_url.get_secret_value()) as run:
        assert service.search_users("a") == ()
        names = {name for (name,) in run("SELECT application_name FROM pg_stat_activity")}
        assert "echo-markets-my-api" in names
