"""The self-test: a line per call, every call made, nothing left behind, and failures that show."""

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


def list_public(service: EnhancedDatabaseService) -> set[str]:
    """Return the names of the service's calls; the self-test does not close what it was given."""
    names = {name for name in dir(service) if not name.startswith("_")}
    return {name for name in names if callable(getattr(service, name))} - {"close"}


def read_tables(execute: Execute) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table there is, those of the counters of quests summed up."""
    execute("SELECT quest_fold()")
    tables = execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    # nobody can remove an event of the audit log, the self-test neither
    kept = f"WHERE actor <> '{ACTOR}'"
    return {
        name: execute(f"SELECT * FROM {name} {kept if name.startswith('audit_events') else ''} ORDER BY 1")
        for (name,) in tables
    }


@pytest.fixture
def people(service: EnhancedDatabaseService) -> User:
    """Alice, who plays: with a row in every table that the self-test writes to."""
    alice = service.create_user(username="alice")
    day = date(2026, 1, 5)
    service.get_current_portfolio(alice.id, day)
    service.update_leaderboard_entry(alice.id, "total_value", Decimal(1), day)
    service.insert_market_tick("AAPL", Decimal(1))
    service.create_market_event(type="NEWS", title="Alice plays")
    with service.audited(actor="alice@example.com", action="warm_cache", target="all"):
        pass
    return alice


def test_every_call_passes_and_nothing_stays(
    service: EnhancedDatabaseService, execute: Execute, people: User
) -> None:
    """Each public call has a line, and every table is unchanged."""
    before = read_tables(execute)
    lines: list[str] = []
    assert run_self_test(service, report=lines.append), "\n".join(lines)
    assert read_tables(execute) == before
    assert {line.split()[1] for line in lines if line.startswith("ok")} == list_public(service)
    assert lines[-1] == "all calls passed"


def test_every_call_is_really_made(service: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test itself makes each call, and loads with rows."""
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

    for name in list_public(service):
        monkeypatch.setattr(service, name, record(name, getattr(service, name)))
    lines: list[str] = []
    assert run_self_test(service, report=lines.append), "\n".join(lines)
    assert made == list_public(service)
    assert rows == {name: 1 for name in made if name.startswith("load_")}


def test_its_lock_is_that_of_the_triggers() -> None:
    """Triggers hold the same lock while they count, so no counters are removed meanwhile."""
    text = (MIGRATIONS / "0003_board_counters.py").read_text("utf-8")
    assert f"WRITERS, FOLDERS = 0x{WRITERS_LOCK:X}, " in text


def test_it_waits_for_who_counts_on_other_leaderboards(
    service: EnhancedDatabaseService, execute: Execute, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tries again without blocking others, and gives up with a line after its attempts."""
    writer = psycopg2.connect(database_url)
    with writer.cursor() as cursor:
        for slot in range(64):
            cursor.execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", (WRITERS_LOCK, slot))
    waited: list[float] = []
    monkeypatch.setattr("core.selftest_cleanup.sleep", waited.append)
    lines: list[str] = []
    assert not run_self_test(service, report=lines.append)
    assert [line for line in lines if line.startswith("FAIL cleanup ")] != []
    assert len(waited) == ATTEMPTS
    waited.clear()
    monkeypatch.setattr("core.selftest_cleanup.sleep", lambda _: writer.rollback())
    lines.clear()
    assert run_self_test(service, report=lines.append), "\n".join(lines)
    writer.close()


def test_it_can_be_repeated_at_once(service: EnhancedDatabaseService) -> None:
    """Cached values of the first run do not fail the second."""
    for _ in range(2):
        lines: list[str] = []
        assert run_self_test(service, report=lines.append), "\n".join(lines)


def test_quests_of_people_are_left_alone(
    service: EnhancedDatabaseService, execute: Execute, people: User
) -> None:
    """It expires quests and maintains partitions in a transaction that is rolled back."""
    service.create_quest(people.id, type="DAILY", title="Over", target_value=Decimal(1))
    execute("UPDATE quests SET expires_at = now() - interval '1 hour'")
    execute("INSERT INTO symbols (symbol, month) VALUES ('GONE', '2020-01-01')")
    before = read_tables(execute)
    lines: list[str] = []
    assert run_self_test(service, report=lines.append), "\n".join(lines)
    assert read_tables(execute) == before


@pytest.mark.parametrize("error", [ValueError("broken"), KeyError("broken")])
def test_a_broken_call_fails_the_run_and_cleans_up(
    service: EnhancedDatabaseService,
    execute: Execute,
    people: User,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    """A wrong answer and an unexpected error are reported; all other calls are made."""

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


def test_a_schema_that_is_missing_is_a_failure_and_no_traceback(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """The output says what was not tried, and the user is removed if possible."""
    execute("DROP TABLE quests, portfolios, leaderboard_entries, market_events CASCADE")
    lines: list[str] = []
    assert not run_self_test(service, report=lines.append)
    assert lines[-1].startswith("failed: ")
    assert execute("SELECT * FROM symbols") == []
    assert execute("SELECT * FROM audit_events WHERE actor <> %s", (ACTOR,)) == []


@contextmanager
def interrupted_inside(manager: Any) -> Iterator[Any]:
    """Enter a context manager and be interrupted in its block."""
    with manager:
        yield None
        raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interruption_anywhere_leaves_nothing(
    service: EnhancedDatabaseService, execute: Execute, people: User
) -> None:
    """Each call in turn is interrupted after its commit, so the self-test gets no answer."""
    before = read_tables(execute)
    for name in sorted(list_public(service)):
        method = getattr(service, name)

        def interrupt(*arguments: Any, method: Callable[..., Any] = method, **options: Any) -> Any:
            if sys._getframe(1).f_globals["__name__"] != "core.selftest":
                return method(*arguments, **options)
            answer = method(*arguments, **options)
            if hasattr(answer, "__enter__"):
                return interrupted_inside(answer)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(service, name, interrupt)
            # the block of `transaction` ends with an error of its own, before the interruption
            with suppress(KeyboardInterrupt):
                run_self_test(service, report=lambda _: None)
        assert read_tables(execute) == before, name


def test_what_a_killed_run_left_is_removed_by_the_next(
    service: EnhancedDatabaseService, execute: Execute, people: User
) -> None:
    """A run older than an hour counts as killed; people with similar names are kept."""
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
def test_a_signal_ends_it_without_a_trace(
    settings: Settings,
    service: EnhancedDatabaseService,
    execute: Execute,
    people: User,
    number: signal.Signals,
) -> None:
    """Ctrl-C, SIGTERM and SIGHUP end it with exit status 130 and no row."""
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
