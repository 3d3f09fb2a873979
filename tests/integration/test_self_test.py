"""The self-test: it calls every public method, reports each on a line, and leaves no row."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg2
import pytest

from core import EnhancedDatabaseService, Settings
from core.installation import MIGRATIONS
from core.queries.leaderboards import WRITERS_LOCK
from core.records import User
from core.selftest import run_self_test
from core.selftest_cleanup import ABANDONED_AFTER, ACTOR, ATTEMPTS, EVENT_TYPE
from tests.conftest import Execute
from tests.dashboard_process import build_environment

ABANDONED = "self-test-0123abcd"
PERSON = "self-test-fan"


def list_public_methods(service: EnhancedDatabaseService) -> set[str]:
    """Return the names of the service's public methods; the self-test does not call `close`."""
    names = {name for name in dir(service) if not name.startswith("_")}
    return {name for name in names if callable(getattr(service, name))} - {"close"}


def read_tables(execute: Execute) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table; the quest counters are folded first."""
    execute("SELECT quest_fold()")
    tables = execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    # events of the audit log cannot be deleted, so those of the self-test stay
    kept = f"WHERE actor <> '{ACTOR}'"
    return {
        name: execute(f"SELECT * FROM {name} {kept if name.startswith('audit_events') else ''} ORDER BY 1")
        for (name,) in tables
    }


@pytest.fixture
def alice(service: EnhancedDatabaseService) -> User:
    """Return alice, and store her portfolio, an entry, a tick, an event and an audited action."""
    alice = service.create_user(username="alice")
    day = date(2026, 1, 5)
    service.get_current_portfolio(alice.id, day)
    service.update_leaderboard_entry(alice.id, "total_value", Decimal(1), day)
    service.insert_market_tick("AAPL", Decimal(1))
    service.create_market_event(type="NEWS", title="Alice plays")
    with service.audited(actor="alice@example.com", action="warm_cache", target="all"):
        pass
    return alice


def test_every_call_passes_and_no_row_stays(
    service: EnhancedDatabaseService, execute: Execute, alice: User
) -> None:
    """Each public method has a line `ok`, and every table is unchanged."""
    before = read_tables(execute)
    lines: list[str] = []
    assert run_self_test(service, report=lines.append), "\n".join(lines)
    assert read_tables(execute) == before
    assert {line.split()[1] for line in lines if line.startswith("ok")} == list_public_methods(service)
    assert lines[-1] == "all calls passed"


def test_every_call_is_really_made(service: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test itself calls each public method, and each bulk load gets one row."""
    made: set[str] = set()
    rows: dict[str, int] = {}

    def record(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if sys._getframe(1).f_globals["__name__"].startswith("core.selftest"):
                made.add(name)
            answer = method(*arguments, **options)
            if name.startswith("load_"):
                rows[name] = len(answer) if isinstance(answer, dict) else answer
            return answer

        return call

    for name in list_public_methods(service):
        monkeypatch.setattr(service, name, record(name, getattr(service, name)))
    lines: list[str] = []
    assert run_self_test(service, report=lines.append), "\n".join(lines)
    assert made == list_public_methods(service)
    assert rows == {name: 1 for name in made if name.startswith("load_")}


def test_the_lock_is_that_of_the_triggers() -> None:
    """Self-test and triggers take the same lock, so that no counter is removed while a trigger counts."""
    text = (MIGRATIONS / "0003_board_counters.py").read_text("utf-8")
    assert f"WRITERS, FOLDERS = 0x{WRITERS_LOCK:X}, " in text


def test_the_cleanup_waits_for_other_writers(
    service: EnhancedDatabaseService, execute: Execute, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a writer holds the counter locks, cleanup retries, then fails; after the release it succeeds."""
    writer = psycopg2.connect(database_url)
    with writer.cursor() as cursor:
        for slot in range(64):
            cursor.execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", (WRITERS_LOCK, slot))
    pauses: list[float] = []
    monkeypatch.setattr("core.selftest_cleanup.sleep", pauses.append)
    lines: list[str] = []
    assert not run_self_test(service, report=lines.append)
    assert [line for line in lines if line.startswith("FAIL cleanup ")] != []
    assert len(pauses) == ATTEMPTS
    pauses.clear()
    monkeypatch.setattr("core.selftest_cleanup.sleep", lambda _: writer.rollback())
    lines.clear()
    assert run_self_test(service, report=lines.append), "\n".join(lines)
    writer.close()


def test_a_second_run_passes(service: EnhancedDatabaseService) -> None:
    """A second self-test directly after the first passes, although values are cached."""
    for _ in range(2):
        lines: list[str] = []
        assert run_self_test(service, report=lines.append), "\n".join(lines)


def test_quests_of_other_users_are_unchanged(
    service: EnhancedDatabaseService, execute: Execute, alice: User
) -> None:
    """The self-test expires quests and maintains partitions in a transaction that it rolls back."""
    service.create_quest(alice.id, type="DAILY", title="Over", target_value=Decimal(1))
    execute("UPDATE quests SET expires_at = now() - interval '1 hour'")
    execute("INSERT INTO symbols (symbol, month) VALUES ('GONE', '2020-01-01')")
    before = read_tables(execute)
    lines: list[str] = []
    assert run_self_test(service, report=lines.append), "\n".join(lines)
    assert read_tables(execute) == before


@pytest.mark.parametrize("error", [ValueError("broken"), KeyError("broken")])
def test_a_failed_call_fails_the_run_and_cleans_up(
    service: EnhancedDatabaseService,
    execute: Execute,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    """A wrong result and an unexpected error are reported, later calls are made, and no row stays."""

    def fail(*_: object, **__: object) -> None:
        raise error

    before = read_tables(execute)
    monkeypatch.setattr(service, "get_user_rank", lambda *_: None)
    monkeypatch.setattr(service, "update_quest_progress", fail)
    lines: list[str] = []
    assert not run_self_test(service, report=lines.append)
    assert any(line.startswith("FAIL get_user_rank ") for line in lines)
    assert any(line.startswith("FAIL update_quest_progress ") and "broken" in line for line in lines)
    assert any(line.startswith("ok   delete_user ") for line in lines)
    assert read_tables(execute) == before


def test_missing_tables_fail_the_run(service: EnhancedDatabaseService, execute: Execute) -> None:
    """If tables are missing, the last line begins with "failed:", and the table of symbols is empty."""
    execute("DROP TABLE quests, portfolios, leaderboard_entries, market_events CASCADE")
    lines: list[str] = []
    assert not run_self_test(service, report=lines.append)
    assert lines[-1].startswith("failed: ")
    assert execute("SELECT * FROM symbols") == []
    assert execute("SELECT * FROM audit_events WHERE actor <> %s", (ACTOR,)) == []


@contextmanager
def interrupt_block(manager: Any) -> Iterator[Any]:
    """Enter a context manager and raise KeyboardInterrupt at the end of its block."""
    with manager:
        yield None
        raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_row(
    service: EnhancedDatabaseService, execute: Execute, alice: User
) -> None:
    """Each method in turn is interrupted after its commit, and every table is unchanged afterwards."""
    before = read_tables(execute)
    for name in sorted(list_public_methods(service)):
        method = getattr(service, name)

        def interrupt(*arguments: Any, method: Callable[..., Any] = method, **options: Any) -> Any:
            if sys._getframe(1).f_globals["__name__"] != "core.selftest":
                return method(*arguments, **options)
            answer = method(*arguments, **options)
            if hasattr(answer, "__enter__"):
                return interrupt_block(answer)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(service, name, interrupt)
            # not raised in `transaction`, because the self-test's block raises its own error for the rollback
            with suppress(KeyboardInterrupt):
                run_self_test(service, report=lambda _: None)
        assert read_tables(execute) == before, name


def test_rows_of_a_killed_run_are_removed(
    service: EnhancedDatabaseService, execute: Execute, alice: User
) -> None:
    """A run removes the rows of a self-test older than an hour and keeps users with similar names."""
    service.create_user(username=PERSON)
    before = read_tables(execute)
    left = service.create_user(username=ABANDONED)
    service.get_current_portfolio(left.id, date(1970, 1, 1))
    service.create_market_event(type=EVENT_TYPE, title=ABANDONED)
    service.insert_market_tick(ABANDONED.upper(), Decimal(1), timestamp=datetime(1970, 1, 1, tzinfo=UTC))
    with service.audited(actor=ACTOR, action="clear_cache", target=ABANDONED):
        pass
    lines: list[str] = []
    assert run_self_test(service, report=lines.append), "\n".join(lines)
    assert service.get_user_by_id(left.id) == left
    age = ABANDONED_AFTER + timedelta(minutes=1)
    execute("UPDATE users SET created_at = created_at - %s WHERE id = %s", (age, str(left.id)))
    execute("UPDATE users SET created_at = created_at - %s WHERE username = %s", (age, PERSON))
    assert run_self_test(service, report=lines.append), "\n".join(lines)
    execute("UPDATE users SET created_at = created_at + %s WHERE username = %s", (age, PERSON))
    assert read_tables(execute) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_without_rows(
    settings: Settings,
    service: EnhancedDatabaseService,
    execute: Execute,
    alice: User,
    number: signal.Signals,
) -> None:
    """SIGINT, SIGTERM and SIGHUP end the self-test with exit status 130, and no row stays."""
    assert settings.redis_password is not None
    environment = build_environment(
        DATABASE_URL=settings.database_url.get_secret_value(),
        REDIS_URL=settings.redis_url.get_secret_value(),
        REDIS_PASSWORD=settings.redis_password.get_secret_value(),
        PYTHONUNBUFFERED="1",
    )
    before = read_tables(execute)
    command = [sys.executable, "-m", "core.cli", "self-test"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "create_user" in process.stdout.readline()
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.splitlines()[-1]) == (130, "error: interrupted")
    assert read_tables(execute) == before
