"""Concurrent migrations: a run logs that it waits for the lock, waits a limited time, and leaves no lock."""

import contextlib
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection
from pydantic import SecretStr

from core import Settings
from core import migration as migrations
from core.errors import MigrationFailed
from core.migration import ADVISORY_LOCK, WAIT_POLL_SECONDS, Migrator
from tests.conftest import Execute
from tests.integration.catalog import describe

COUNT_ADVISORY_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"


@contextlib.contextmanager
def holding(url: str, statement: str) -> Iterator[connection]:
    """Run a statement in an open transaction of a session named `deploy`, and yield its connection."""
    raw = psycopg2.connect(url, application_name="deploy")
    try:
        with raw.cursor() as cursor:
            cursor.execute(statement)
        yield raw
    finally:
        raw.close()


class Sleep:
    """A sleep function that returns at once, counts its calls, and runs an action at some of them."""

    def __init__(self, actions: dict[int, Callable[[], object]] | None = None) -> None:
        self.count = 0
        self._actions = actions or {}

    def __call__(self, seconds: float) -> None:
        """Count the call, and run its action if it has one."""
        assert seconds == WAIT_POLL_SECONDS
        self.count += 1
        self._actions.get(self.count, lambda: None)()


def migrate(url: str, *, wait_seconds: float, sleep: Callable[[float], object]) -> list[str]:
    """Apply all migrations, and return their names."""
    settings = Settings(database_url=SecretStr(url))
    return Migrator(settings, wait_seconds=wait_seconds, sleep=sleep).up()


@pytest.mark.parametrize("kind", ["pg_advisory_xact_lock", "pg_advisory_lock"])
def test_waiting_is_announced_and_bounded(
    empty_database_url: str, empty_execute: Execute, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """A run that waits logs the session that holds the lock, and raises after `wait_seconds`."""
    sleep = Sleep()
    before = describe(empty_execute)
    with holding(empty_database_url, f"SELECT {kind}({ADVISORY_LOCK})") as other:
        pid = other.info.backend_pid
        with caplog.at_level(logging.WARNING), pytest.raises(MigrationFailed) as caught:
            migrate(empty_database_url, wait_seconds=2.0, sleep=sleep)
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"another migration holds the lock: deploy (process {pid}) for ")
    assert line.endswith("waiting for up to 2 s")
    assert f"has held the lock for 2 s (deploy (process {pid}) for" in str(caught.value)
    assert sleep.count == 2.0 / WAIT_POLL_SECONDS
    assert describe(empty_execute) == before


def test_a_waiting_run_continues(empty_database_url: str, empty_execute: Execute) -> None:
    """A waiting run applies its migrations once the lock is free, and leaves no lock."""
    with holding(empty_database_url, f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})") as other:
        sleep = Sleep({3: other.rollback})
        assert migrate(empty_database_url, wait_seconds=60, sleep=sleep)
    assert sleep.count == 3
    assert empty_execute(COUNT_ADVISORY_LOCKS) == [(0,)]


def test_a_waiting_run_has_no_open_transaction(empty_database_url: str, empty_execute: Execute) -> None:
    """A waiting run has no open transaction, which would prevent VACUUM from removing dead rows."""
    open_transactions = """SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'echo-markets-migrate' AND xact_start IS NOT NULL"""
    seen: list[object] = []
    with holding(empty_database_url, f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})") as other:
        sleep = Sleep({1: lambda: seen.append(empty_execute(open_transactions)), 2: other.rollback})
        migrate(empty_database_url, wait_seconds=60, sleep=sleep)
    assert seen == [[(0,)]]


def test_the_wait_for_a_table_in_use_is_bounded(
    empty_database_url: str, empty_execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run gives up and rolls back if a table stays in use, because new statements would wait behind it."""
    monkeypatch.setattr(migrations, "TABLE_WAIT_SECONDS", 0.2)
    settings = Settings(database_url=SecretStr(empty_database_url))
    Migrator(settings).up()
    before = describe(empty_execute)
    with holding(empty_database_url, "SELECT count(*) FROM market_events"):
        with pytest.raises(MigrationFailed, match=r"others used a table for more than 0\.2 s") as caught:
            Migrator(settings).down("0001_adopt_users_and_ticks")
        assert "\n" not in str(caught.value)
    assert describe(empty_execute) == before
    assert all(row.applied_at for row in Migrator(settings).status())


def test_a_failing_step_rolls_back_the_whole_run(
    empty_database_url: str, empty_execute: Execute, tmp_path: Path
) -> None:
    """If one migration fails, the migrations before it in the same run are rolled back too."""
    for name, statement in {"0001_one": "CREATE TABLE one ()", "0002_two": "SELECT 1 / 0"}.items():
        lines = ["def up(migrator, db):", f"    db.execute_sql('{statement}')"]
        (tmp_path / f"{name}.py").write_text("\n".join(lines), encoding="utf-8")
    migrator = Migrator(Settings(database_url=SecretStr(empty_database_url)), directory=tmp_path)
    with pytest.raises(MigrationFailed, match="division by zero"):
        migrator.up()
    assert [row.applied_at for row in migrator.status()] == [None, None]
    assert empty_execute("SELECT to_regclass('one'), to_regclass('schema_migration')") == [(None, None)]


def test_a_killed_migration_leaves_no_lock(empty_database_url: str, empty_execute: Execute) -> None:
    """After SIGKILL in a run the next run gets the lock and finds the schema unchanged."""
    code = (
        "import os, signal; from core import migration; from core.settings import Settings\n"
        "with migration.Migrator(Settings.load())._locked() as runner:\n"
        "    runner.database.execute_sql('CREATE TABLE half ()')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env={"DATABASE_URL": empty_database_url}, check=False, timeout=60
    )
    assert result.returncode == -9
    # the server may need a moment to notice that the process is gone
    pause = threading.Event()
    assert migrate(empty_database_url, wait_seconds=60, sleep=pause.wait)
    assert empty_execute("SELECT to_regclass('half')") == [(None,)]


def test_the_command_names_the_session_it_waits_for(empty_database_url: str, repository: Path) -> None:
    """The first line on standard error names the session that holds the lock."""
    command = [sys.executable, "-m", "core.cli", "migrate"]
    with holding(empty_database_url, f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})") as other:
        pid = other.info.backend_pid
        process = subprocess.Popen(
            command,
            cwd=repository,
            env={"DATABASE_URL": empty_database_url, "PATH": ""},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            other.rollback()
            output, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert f"another migration holds the lock: deploy (process {pid})" in line
    assert "applied 0001" in output
    assert process.returncode == 0
