"""Several processes on one database: only one runs the market, and maintenance is done once."""

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
WAITING_MESSAGE = "another simulator runs the market; this one waits"
TAKEOVER_MESSAGE = "the other simulator has ended; this one runs the market now"


@pytest.fixture
def make_lock(settings: Settings) -> Iterator[Callable[[], ProcessLock]]:
    """Yield a function that opens a lock in the test's database, as each process does."""
    locks: list[ProcessLock] = []

    def make() -> ProcessLock:
        locks.append(open_process_lock(settings, KEY, role="simulator"))
        return locks[-1]

    yield make
    for lock in locks:
        lock.release()


def test_one_of_two_has_the_lock(make_lock: Callable[[], ProcessLock]) -> None:
    """Only one of two processes holds the lock; the other gets it after a release."""
    alice, bob = make_lock(), make_lock()
    assert [alice.hold(), bob.hold(), alice.hold(), bob.hold()] == [True, False, True, False]
    alice.release()
    wait_until(bob.hold, "the lock is released", 60.0)
    assert not alice.hold()


def test_a_lost_connection_releases_the_lock(make_lock: Callable[[], ProcessLock], execute: Execute) -> None:
    """After the holder's connection ends, another process gets the lock, and the holder's next call fails."""
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


def test_the_lock_survives_the_idle_transaction_timeout(
    make_lock: Callable[[], ProcessLock], execute: Execute
) -> None:
    """The lock survives idle_in_transaction_session_timeout, because a step may take longer."""
    [(name,)] = execute("SELECT current_database()")
    execute(f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '50ms'")
    alice, bob = make_lock(), make_lock()
    assert alice.hold()
    threading.Event().wait(0.3)
    assert alice.hold()
    assert not bob.hold()


def test_a_waiting_process_has_no_open_transaction(
    make_lock: Callable[[], ProcessLock], execute: Execute
) -> None:
    """Only the holder has an open transaction; a transaction of a waiting process would cause an alert."""
    alice, bob = make_lock(), make_lock()
    assert (alice.hold(), bob.hold()) == (True, False)
    assert execute(
        "SELECT state, count(*) FROM pg_stat_activity"
        " WHERE application_name = 'echo-markets-simulator' GROUP BY state ORDER BY state"
    ) == [("idle", 1), ("idle in transaction", 1)]


def test_only_the_running_simulator_can_be_late(
    service: EnhancedDatabaseService, make_lock: Callable[[], ProcessLock]
) -> None:
    """A waiting simulator reports no task interval, so that only the running one can be late."""
    alice = make_lock()
    assert alice.hold()
    stop = threading.Event()
    waiting = Simulator(service, interval_seconds=0.02, stop=stop, lock=make_lock())
    thread = threading.Thread(target=waiting.run)
    thread.start()
    try:
        assert _list_expected(service) == []
        alice.release()
        wait_until(
            lambda: _list_expected(service) == ["seal_audit_log", "simulator"],
            "the waiting simulator takes over",
            60.0,
        )
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
    """A command in a process of its own, and its log file."""

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
def test_a_waiting_simulator_replaces_a_killed_one(
    service: EnhancedDatabaseService, database_url: str, execute: Execute, tmp_path: Path
) -> None:
    """After the running simulator is killed, the waiting one writes ticks within seconds."""
    import_days(service, tmp_path, "2013-02-20")
    plan_seed(service, players=5, sessions=5).run()
    newest = "SELECT count(*), count(DISTINCT (symbol, timestamp)) FROM ticks WHERE timestamp > '2020-01-01'"
    with _started(tmp_path, "first", database_url, "simulate") as first:
        wait_until(lambda: execute(newest)[0][0] > 0, "the first simulator moves prices", 60.0)
        with _started(tmp_path, "second", database_url, "simulate") as second:
            wait_until(lambda: WAITING_MESSAGE in second.read(), "the second simulator waits", 60.0)
            assert WAITING_MESSAGE not in first.read()
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
            killed = time.monotonic()
            [(before, _)] = execute(newest)
            wait_until(lambda: execute(newest)[0][0] > before, "the second one takes over", 60.0)
            assert TAKEOVER_MESSAGE in second.read()
            # the waiting simulator asks for the lock once per interval, and then reads the session
            assert time.monotonic() - killed < stretch(5)


@pytest.mark.slow
def test_concurrent_maintenance_is_done_once(
    empty_database_url: str, empty_execute: Execute, tmp_path: Path
) -> None:
    """Of two concurrent `migrate up` or `maintain` commands both succeed, and each object is created once."""
    for arguments in (("migrate", "up"), ("maintain", "--months-ahead", "3")):
        with (
            _started(tmp_path, "first", empty_database_url, *arguments) as first,
            _started(tmp_path, "second", empty_database_url, *arguments) as second,
        ):
            statuses = [command.process.wait(120) for command in (first, second)]
            logged = first.read() + second.read()
        assert statuses == [0, 0], logged
        created = [line for line in logged.splitlines() if line.startswith("created ")]
        assert len(created) == len(set(created))
    assert created
    assert empty_execute("SELECT count(*) = count(DISTINCT name) FROM schema_migration") == [(True,)]
