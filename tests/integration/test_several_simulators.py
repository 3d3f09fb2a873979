"""Several processes on one database: one of them runs the market, and maintenance is done once."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core import EnhancedDatabaseService, Settings
from core.app import open_process_lock
from core.database.process_lock import ProcessLock
from core.errors import DatabaseUnavailable
from core.simulation.replay import plan_seed
from core.simulation.simulator import Simulator
from tests.conftest import Execute
from tests.market_days import import_days
from tests.patience import stretch, wait_until

KEY = 0x74657374
OTHERS = "another simulator runs the market; this one waits"
MINE = "the other simulator has ended; this one runs the market now"


@pytest.fixture
def make_lock(settings: Settings) -> Iterator[Callable[[], ProcessLock]]:
    """Locks of the test's database, as processes have them."""
    made: list[ProcessLock] = []

    def make() -> ProcessLock:
        made.append(open_process_lock(settings, KEY, role="simulator"))
        return made[-1]

    yield make
    for lock in made:
        lock.release()


def test_one_of_two_has_the_lock(make_lock: Callable[[], ProcessLock]) -> None:
    """It keeps the lock between calls; the other gets it when it is released."""
    alice, bob = make_lock(), make_lock()
    assert [alice.hold(), bob.hold(), alice.hold(), bob.hold()] == [True, False, True, False]
    alice.release()
    wait_until(bob.hold, "the lock is given up", 60.0)
    assert not alice.hold()


def test_a_lost_connection_gives_the_lock_up(make_lock: Callable[[], ProcessLock], execute: Execute) -> None:
    """The holder notices at its next call, and then competes for the lock again."""
    alice, bob = make_lock(), make_lock()
    assert alice.hold()
    execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks"
        " WHERE locktype = 'advisory' AND objsubid = 2 AND classid = %s",
        (KEY,),
    )
    assert bob.hold()
    with pytest.raises(DatabaseUnavailable, match="process_lock"):
        alice.hold()
    assert not alice.hold()


def test_the_lock_survives_a_servers_limit_of_idle_transactions(
    make_lock: Callable[[], ProcessLock], execute: Execute
) -> None:
    """A step may take longer than the server's limit for idle transactions."""
    [(name,)] = execute("SELECT current_database()")
    execute(f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '50ms'")
    alice, bob = make_lock(), make_lock()
    assert alice.hold()
    threading.Event().wait(0.3)
    assert alice.hold()
    assert not bob.hold()


def test_who_waits_keeps_no_transaction_open(make_lock: Callable[[], ProcessLock], execute: Execute) -> None:
    """An open transaction of a waiting process would cause an alert."""
    alice, bob = make_lock(), make_lock()
    assert (alice.hold(), bob.hold()) == (True, False)
    assert execute(
        "SELECT state, count(*) FROM pg_stat_activity"
        " WHERE application_name = 'echo-markets-simulator' GROUP BY state ORDER BY state"
    ) == [("idle", 1), ("idle in transaction", 1)]


def test_only_the_holder_is_late(
    service: EnhancedDatabaseService, make_lock: Callable[[], ProcessLock]
) -> None:
    """A waiting simulator is not expected to succeed, the running one is."""
    alice = make_lock()
    assert alice.hold()
    stop = threading.Event()
    waiting = Simulator(service, interval_seconds=0.02, stop=stop, lock=make_lock())
    thread = threading.Thread(target=waiting.run)
    thread.start()
    try:
        assert _list_expected(service) == []
        alice.release()
        wait_until(lambda: _list_expected(service) == ["seal_audit_log", "simulator"], "it takes over", 60.0)
    finally:
        stop.set()
        thread.join(20)
    assert _list_expected(service) == []


def _list_expected(service: EnhancedDatabaseService) -> list[str]:
    return sorted(
        sample.labels["task"]
        for metric in service.metrics.collect()
        for sample in metric.samples
        if sample.name == "echo_task_interval_seconds" and sample.value > 0
    )


class _Command:
    """A command of its own process, with its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def read(self) -> str:
        return self._log.read_text()


@contextmanager
def _started(folder: Path, name: str, url: str, *arguments: str) -> Iterator[_Command]:
    log = folder / f"{name}.log"
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "DATABASE_URL": url,
        "ENABLE_REDIS_CACHE": "false",
        "SIMULATOR_INTERVAL": "100",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "core.cli", *arguments],
            env=environment,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _Command(process, log)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_killed_simulator_is_replaced_by_the_one_that_waits(
    service: EnhancedDatabaseService, database_url: str, execute: Execute, tmp_path: Path
) -> None:
    """Only the first writes ticks until it is killed, then the second does."""
    import_days(service, tmp_path, "2013-02-20")
    plan_seed(service, players=5, sessions=5).run()
    newest = "SELECT count(*), count(DISTINCT (symbol, timestamp)) FROM ticks WHERE timestamp > '2020-01-01'"
    with _started(tmp_path, "first", database_url, "simulate") as first:
        wait_until(lambda: execute(newest)[0][0] > 0, "the first simulator moves prices", 60.0)
        with _started(tmp_path, "second", database_url, "simulate") as second:
            wait_until(lambda: OTHERS in second.read(), "the second simulator waits", 60.0)
            assert OTHERS not in first.read()
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
            killed = time.monotonic()
            [(before, _)] = execute(newest)
            wait_until(lambda: execute(newest)[0][0] > before, "the second one takes over", 60.0)
            assert MINE in second.read()
            # one interval until it asks, and the session to be read
            assert time.monotonic() - killed < stretch(5)


@pytest.mark.slow
def test_hosts_that_start_together_migrate_and_maintain_once(
    empty_database_url: str, empty_execute: Execute, tmp_path: Path
) -> None:
    """Both succeed; the second finds the work done."""
    for arguments in (("migrate", "up"), ("maintain", "--months-ahead", "3")):
        with (
            _started(tmp_path, "first", empty_database_url, *arguments) as first,
            _started(tmp_path, "second", empty_database_url, *arguments) as second,
        ):
            statuses = [command.process.wait(120) for command in (first, second)]
            said = first.read() + second.read()
        assert statuses == [0, 0], said
        created = [line for line in said.splitlines() if line.startswith("created ")]
        assert len(created) == len(set(created))
    assert created
    assert empty_execute("SELECT count(*) = count(DISTINCT name) FROM schema_migration") == [(True,)]
